"""Where a webhook may go: its URL is checked, and pinned to an address that was checked.

The service sits inside of somebody's network, so a caller must not make it knock at doors there.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass

import httpx

from service.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_CHARS = 2048
NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """`address` is what `url`'s host was when it was checked; that one is called, no other."""

    url: httpx.URL
    address: str

    def request(
        self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]
    ) -> httpx.Request:
        """A POST to the checked address that names the host, in TLS too."""
        return client.build_request(
            "POST",
            self.url.copy_with(host=self.address),
            content=body,
            headers={**headers, "Host": self.url.netloc.decode()},
            extensions={"sni_hostname": self.url.host},
        )


async def resolve(text: str, allow_private: bool) -> Target:
    """InvalidRequest unless every address of the URL's host may be called."""
    url = _parse(text)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _invalid(f"the host {url.host!r} cannot be found: {error}") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not allow_private:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address)):
                raise _invalid(
                    f"{url.host} is a private address; DIFFPLUGIN_WEBHOOK_ALLOW_PRIVATE allows them"
                )
    return Target(url, addresses[0])


def is_public(address: Address) -> bool:
    """Whatever an IPv6 address carries within counts, too."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise _invalid(f"this is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or len(text) > MAX_URL_CHARS:
        raise _invalid(f"send an http or https URL of at most {MAX_URL_CHARS} characters")
    if url.userinfo:
        raise _invalid("leave user and password out of the URL; webhooks are signed")
    return url


def _invalid(message: str) -> InvalidRequest:
    message = f"field 'webhook': {message}"
    return InvalidRequest(message, {"webhook": message})
