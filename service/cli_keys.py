"""`diffplugin keys`: create, list and remove API keys. A running service follows at once."""

import time
from pathlib import Path
from typing import Annotated

import typer

from service.api_keys import KeyFile, Scope
from service.cli_settings import read_settings
from service.errors import InvalidRequest

keys_app = typer.Typer(help="Look after API keys.", no_args_is_help=True)

File = Annotated[Path | None, typer.Option(help="Default: DIFFPLUGIN_API_KEYS_FILE.")]
Name = Annotated[str, typer.Argument(help="Whose key it is, e.g. web-shop.")]


@keys_app.command("create")
def create(
    name: Name,
    scope: Annotated[
        list[str] | None, typer.Option(help="edit (default) or admin; repeat.")
    ] = None,
    per_minute: Annotated[int, typer.Option(min=0, help="Most edits and plans; 0: any.")] = 0,
    given: Annotated[bool, typer.Option(help="Add the key in DIFFPLUGIN_API_KEY.")] = False,
    file: File = None,
) -> None:
    """Print a new key. It is not kept: only its hash is."""
    keys, scopes = _key_file(file), _scopes(scope or ["edit"])
    if given:
        keys.add(read_settings().api_key, name, scopes, per_minute)
        print(f"the key {name} is added")
    else:
        print(keys.create(name, scopes, per_minute))


@keys_app.command("list")
def list_keys(file: File = None) -> None:
    """One line per key."""
    for entry in _key_file(file).all():
        at = time.strftime("%Y-%m-%d", time.localtime(entry.created_at))
        rate = f"{entry.per_minute} a minute" if entry.per_minute else "no limit"
        print(f"{entry.name}  {','.join(entry.scopes)}  {rate}  since {at}")


@keys_app.command("remove")
def remove(name: Name, file: File = None) -> None:
    """Refuse a key from now on."""
    _key_file(file).remove(name)
    print(f"the key {name} is removed")


def _key_file(file: Path | None) -> KeyFile:
    path = file or read_settings().api_keys_file
    if path is None:
        raise InvalidRequest("say which file: --file keys.json, or set DIFFPLUGIN_API_KEYS_FILE")
    return KeyFile(path)


def _scopes(names: list[str]) -> tuple[Scope, ...]:
    known: dict[str, Scope] = {"edit": "edit", "admin": "admin"}
    if wrong := [name for name in names if name not in known]:
        raise InvalidRequest(f"there is no scope {wrong[0]!r}; scopes are edit and admin")
    return tuple(known[name] for name in names)
