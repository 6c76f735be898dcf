"""Heads beside themselves with one idea turned off."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from detheads.arena.records import ControlOf
from detheads.arena.run import Contestants
from detheads.foundation.errors import UserError
from detheads.headkit import registry


def with_controls(contestants: Contestants, named: Sequence[str] = ()) -> Contestants:
    """The heads with their controls, each of which has its head's options but for those that turn the idea off.

    Args:
        named: ``HEAD.IDEA``, the controls that take part; all controls of all heads when empty.

    Raises:
        UserError: when a name is no control of a head that takes part, no head has one, or the options given turn an
            idea off in the head itself.
    """
    if not named:
        chosen = [(head, idea) for head in contestants.options for idea in registry.entry(head).head.controls]
        if not chosen:
            raise UserError(
                f"none of the heads {', '.join(contestants.options)} states an idea that can be turned off; "
                "leave --with-controls out, or choose heads that 'detheads heads show NAME' lists ideas of."
            )
    else:
        chosen = [_parsed(name, contestants.options) for name in dict.fromkeys(named)]
    controls = [_control(contestants, head, idea) for head, idea in chosen]
    options = {each.name: {**contestants.options[each.head], **each.options} for each in controls}
    return replace(
        contestants,
        options={**contestants.options, **options},
        controls={each.name: each for each in controls},
    )


def _parsed(name: str, heads: Iterable[str]) -> tuple[str, str]:
    head, dot, idea = name.partition(".")
    if not dot or head not in heads:
        raise UserError(f"--control takes HEAD.IDEA of a head that takes part ({', '.join(heads)}), not {name!r}.")
    ideas = registry.entry(head).head.controls
    if idea not in ideas:
        has = f"it has {', '.join(ideas)}" if ideas else "it states no idea that can be turned off"
        raise UserError(f"{head} has no control {idea!r}; {has}.")
    return head, idea


def _control(contestants: Contestants, head: str, idea: str) -> ControlOf:
    entry = registry.entry(head)
    control = entry.head.controls[idea]
    given = contestants.options[head]
    made = registry.config_dict(entry, {**given, **control.options})
    if registry.config_dict(entry, given) == made:
        raise UserError(
            f"with these options {head} has its idea {idea!r} turned off already, so it would be compared with itself; "
            "leave them out."
        )
    return ControlOf(
        head=head,
        idea=idea,
        claim=control.claim,
        options={option: made[option] for option in control.options},
        metric=control.metric,
        allowance=control.allowance,
    )
