"""Heads by name. A head is one file whose class is decorated with ``@register``; :mod:`.library` finds the files."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError, suggest
from detheads.headkit.contract import Head
from detheads.headkit.library import head_modules, require_head
from detheads.headkit.options import ALLOWED, allowed, convert, option_types, to_json, to_text, unsupported

HeadClass = TypeVar("HeadClass", bound=type[Head])


@dataclass(frozen=True)
class Entry:
    """A registered head: its class and the dataclass of its options."""

    name: str
    head: type[Head]
    config: type[Any]

    @property
    def summary(self) -> str:
        """The first line of the head's docstring."""
        return (self.head.__doc__ or "").strip().partition("\n")[0]


_ENTRIES: dict[str, Entry] = {}


def register(config: type[Any]) -> Callable[[HeadClass], HeadClass]:
    """Class decorator: make a head known under its file's name, with ``config`` as the dataclass of its options.

    The class is called as ``Head(spec, num_classes, config)``.

    Raises:
        UserError: when an option is of a type that none may have (see :mod:`detheads.headkit.options`).
    """

    def add(head: HeadClass) -> HeadClass:
        name = head.__module__.rpartition(".")[2]
        _require_supported(name, config)
        _ENTRIES[name] = Entry(name, head, config)
        return head

    return add


def entries() -> dict[str, Entry]:
    """All heads of the package by name, in alphabetical order."""
    _import_libraries()
    return dict(sorted(_ENTRIES.items()))


@cache
def _import_libraries() -> None:
    for module in head_modules().values():
        importlib.import_module(module)


def forget(name: str) -> None:
    """Make a head unknown again, where there is one of that name."""
    _ENTRIES.pop(name, None)


def trainable() -> dict[str, Entry]:
    """The heads that gradients train; the others are solved in closed form."""
    return {name: found for name, found in entries().items() if found.head.trainable}


def entry(name: str) -> Entry:
    """The head of that name.

    Raises:
        UserError: when there is none, with the closest names.
    """
    known = entries()
    require_head(name, known)
    return known[name]


def build(name: str, spec: FeatureSpec, num_classes: int, config: Mapping[str, Any] | None = None) -> Head:
    """Build a head for given features.

    Args:
        config: options by name; those left out have their default.

    Raises:
        UserError: unknown head, unknown option, an option of the wrong type, a size that leaves nothing to build, or
            features without the intermediate blocks that the head reads.
    """
    found = entry(name)
    _require_blocks(found, spec)
    made = make_config(found, config or {})
    given = ", ".join(f"{key}={to_text(value)}" for key, value in (config or {}).items())
    try:
        head = found.head(spec, num_classes, made)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"head {name} cannot be built with {given or 'its defaults'} ({_first_line(error)})."
        ) from error
    empty = next((key for key, value in head.named_parameters() if not value.numel()), None)
    if empty is not None:
        raise UserError(f"head {name} cannot be built with {given}: nothing is left of its {empty}.")
    return head


def make_config(found: Entry, options: Mapping[str, Any]) -> Any:
    """The head's config dataclass with ``options`` filled in, checked and converted (text from a command line too).

    Raises:
        UserError: naming an unknown option, or one that its annotation does not allow.
    """
    types = option_types(found.config)
    known = {field.name for field in fields(found.config)}
    values = {}
    for key, value in options.items():
        if key not in known:
            has = ", ".join(sorted(known))
            raise UserError(f"head {found.name} has no option {key!r}; it has {has}.{suggest(key, known)}")
        try:
            values[key] = convert(types[key], value)
        except ValueError as error:
            raise UserError(f"option {key} of head {found.name} {error}.") from None
    return found.config(**values)


def config_dict(found: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a head with their values, defaults included, ready for JSON."""
    made = make_config(found, options)
    return {field.name: to_json(getattr(made, field.name)) for field in fields(made)}


def defaults(found: Entry) -> dict[str, Any]:
    """The options of a head with their default values."""
    return {field.name: default_of(field) for field in fields(found.config)}


def default_of(field: Field[Any]) -> Any:
    """The default of a dataclass's field; ``MISSING`` when it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def bounds(found: Entry) -> dict[str, str]:
    """What each option of a head may be, in words."""
    types = option_types(found.config)
    return {field.name: allowed(types[field.name]) for field in fields(found.config)}


def choices(found: Entry, option: str) -> tuple[str, ...]:
    """The values of an option that takes one of several words; empty when the head has no such option."""
    annotation = get_type_hints(found.config).get(option)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _require_supported(name: str, config: type[Any]) -> None:
    if not is_dataclass(config):
        return  # a head file says so itself
    for option, annotation in option_types(config).items():
        if unsupported(annotation):
            shown = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else annotation
            raise UserError(f"head {name}: the option {option} is of type {shown}; options may be {ALLOWED}.")


def _require_blocks(found: Entry, spec: FeatureSpec) -> None:
    missing = [f"block{block}" for block in found.head.blocks if f"block{block}" not in spec.names]
    if missing:
        wanted = ",".join(map(str, found.head.blocks))
        raise UserError(
            f"head {found.name} reads {', '.join(missing)}, which these features ({', '.join(spec.names)}) "
            f"do not hold; cache a transformer with 'detheads cache build ... --layers {wanted}'."
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
