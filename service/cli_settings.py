"""Settings as the command line reads them: environment, then options; a wrong one is named."""

from collections.abc import Iterable

from pydantic import ValidationError

from service.errors import InvalidRequest, UnknownPlugin
from service.plugin_manifest import installed_plugins
from service.settings import Settings


def read_settings(**options: object) -> Settings:
    """The settings; options that are not None go before the environment's variables."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings.model_validate({**Settings().model_dump(), **given})
    except ValidationError as error:
        problems = (
            f"DIFFPLUGIN_{str(problem['loc'][0]).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise InvalidRequest(f"a setting is wrong: {'; '.join(problems)}") from error


def read_store_settings(**options: object) -> Settings:
    """The settings, and plugins_store with its base is there."""
    settings = read_settings(**options)
    store = settings.plugins_store
    if not store.is_dir():
        raise InvalidRequest(
            f"there is no plugins store at {store.absolute()}; run in the project's folder, "
            "or set DIFFPLUGIN_PLUGINS_STORE to the absolute path of its plugins_store"
        )
    if not (store / settings.base).is_dir():
        found = (*store.glob("*/unet"), *store.glob("*/base.json"))
        bases = sorted({path.parent.name for path in found})
        raise InvalidRequest(
            f"there is no base {settings.base!r} in {store.absolute()}; "
            f"bases there: {', '.join(bases) or 'none'}"
        )
    return settings


def check_installed(settings: Settings, names: Iterable[str]) -> None:
    """UnknownPlugin, naming those that are not installed and those that are."""
    installed = installed_plugins(settings.plugins_store, settings.base)
    unknown = [name for name in names if name not in installed]
    if unknown:
        raise UnknownPlugin(
            f"no plugin is called {', '.join(map(repr, unknown))}; "
            f"installed are: {', '.join(installed) or 'none'}"
        )
