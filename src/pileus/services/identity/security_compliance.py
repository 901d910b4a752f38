"""Security compliance: what a cloud may ask of passwords and of the accounts they open. Everything is off by default.

https://docs.openstack.org/keystone/latest/admin/configuration.html#security-compliance-and-pci-dss

Nothing here reads a clock or the store: the settings, the user and the time are given. A user's options exempt him from
single rules.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from pileus.kernel.faults import Invalid, Unauthenticated
from pileus.kernel.world import seconds_of, stamp

from .passwords import Passwords
from .settings import Settings

if TYPE_CHECKING:
    from .users import User

_DAY_S = 86_400


def is_enabled(user: User, rules: Settings, today: str) -> bool:
    """Whether he may do anything: an account that nobody used for long counts as disabled."""
    days = rules.disable_user_account_days_inactive
    if not user.enabled or not days or user.options.get("ignore_user_inactivity"):
        return user.enabled
    last = user.active_on or user.created_at[:10]
    if not last:
        return True
    return (dt.date.fromisoformat(today[:10]) - dt.date.fromisoformat(last)).days < days


def is_locked(user: User, rules: Settings, now: float) -> bool:
    """Whether too many wrong passwords were tried on him, the last of them not long ago."""
    limit = rules.lockout_failure_attempts
    if not limit or user.failures < limit or user.options.get("ignore_lockout_failure_attempts"):
        return False
    return not is_lock_over(user, rules, now)


def is_lock_over(user: User, rules: Settings, now: float) -> bool:
    """Whether what was tried on him before no longer counts."""
    waits = rules.lockout_duration_s
    return bool(waits and user.failed_at) and seconds_of(user.failed_at) + waits <= now


def is_expired(user: User, now: str) -> bool:
    """Whether his password opens nothing but its own change."""
    if not user.password_expires_at or user.options.get("ignore_password_expiry"):
        return False
    return now >= user.password_expires_at


def expired(user: User) -> Unauthenticated:
    """Said to him only who knows the password."""
    return Unauthenticated(
        f"The password is expired and needs to be changed for user: {user.id}.",
        internal=f"the password of user {user.id} is expired",
    )


def check_strength(rules: Settings, password: str) -> None:
    """Raises Invalid."""
    if rules.password_regex and not re.match(rules.password_regex, password):
        told = rules.password_regex_description or None
        raise Invalid(f"The password does not match the requirements: {told}.")


async def check_choice(
    passwords: Passwords, rules: Settings, user: User, password: str, now: float
) -> None:
    """Whether a user may replace his own password by this one. Raises Invalid."""
    if user.options.get("lock_password"):
        raise Invalid(
            "You cannot change your password at this time due to password policy disallowing "
            "password changes. Please contact your administrator to reset your password."
        )
    _check_age(rules, user, now)
    count = rules.unique_last_password_count
    for known in [*user.former_hashes, user.password_hash][-count:] if count else []:
        if await passwords.fits(known, password):
            raise Invalid(
                "The new password cannot be identical to a previous password. The total number "
                f"which includes the new password must be unique is {count}."
            )


def _check_age(rules: Settings, user: User, now: float) -> None:
    days = rules.minimum_password_age_days
    if not days or not user.password_is_own or not user.password_at:
        return
    left = seconds_of(user.password_at) + days * _DAY_S - now
    if left > 0:
        raise Invalid(
            "You cannot change your password at this time due to the minimum password age. Once "
            f"you change your password, it must be used for {days} day(s) before it can be "
            f"changed. Please try again in {int(left // _DAY_S)} day(s) or contact your "
            "administrator to reset your password."
        )


def replaced(
    rules: Settings, user: User | None, hashed: str, options: dict[str, Any], now: str, *, own: bool
) -> dict[str, Any]:
    """The fields of a user whose password becomes `hashed`, by his own choice or by an administrator's."""
    known = [*user.former_hashes, user.password_hash] if user and user.password_hash else []
    kept = rules.unique_last_password_count
    expires = ""
    if rules.password_expires_days and not options.get("ignore_password_expiry"):
        at = seconds_of(now) + rules.password_expires_days * _DAY_S
        expires = stamp(float(int(at)))
    exempt = options.get("ignore_change_password_upon_first_use")
    if rules.change_password_upon_first_use and not own and not exempt:
        expires = now
    return {
        "password_hash": hashed,
        "password_at": now if hashed else "",
        "password_expires_at": expires if hashed else "",
        "password_is_own": own,
        "former_hashes": known[-kept:] if kept else [],
    }


def unlocked(rules: Settings, now: str) -> dict[str, Any]:
    """The fields of a user whom an administrator enables: what was tried on him is forgotten."""
    fields: dict[str, Any] = {"failures": 0, "failed_at": ""}
    if rules.disable_user_account_days_inactive:
        fields["active_on"] = now[:10]
    return fields
