"""API keys and teams, on both engines."""

from datetime import timedelta

import pytest

from orchestrator.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
)
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.keys import CACHE_SECONDS, Keys, is_well_formed, make_secret
from orchestrator.services.teams import Teams
from orchestrator.store.session import Store
from tests.support.threads import run_together


@pytest.fixture
def admin(store: Store) -> Caller:
    made = Keys(store).bootstrap_admin()
    assert made is not None
    return Keys(store).authenticate(made.secret)


def test_the_first_key_is_made_once(store: Store) -> None:
    made = run_together([lambda: Keys(store).bootstrap_admin() for _ in range(8)])
    keys = [key for key in made if key is not None]
    assert len(keys) == 1
    assert Keys(store).authenticate(keys[0].secret).role is Role.ADMIN
    assert Keys(store).bootstrap_admin() is None


def test_a_key_acts_for_its_team(store: Store, admin: Caller) -> None:
    team = Teams(store).create(admin, "vision")
    made = Keys(store).create(admin, name="ci", role=Role.MEMBER, team="vision")
    caller = Keys(store).authenticate(made.secret)
    assert (caller.team_id, caller.team_name, caller.role) == (team.team_id, "vision", Role.MEMBER)
    assert made.secret.startswith(made.key.prefix)
    assert made.secret not in repr(made)


def test_a_revoked_key_is_refused_at_once_here_and_soon_elsewhere(store: Store, admin: Caller) -> None:
    clock = [0.0]
    here, elsewhere = Keys(store), Keys(store, monotonic=lambda: clock[0])
    made = here.create(admin, name="ci", role=Role.VIEWER)
    here.authenticate(made.secret)
    elsewhere.authenticate(made.secret)
    here.revoke(admin, made.key.key_id)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        here.authenticate(made.secret)
    assert elsewhere.authenticate(made.secret).key_id == made.key.key_id
    clock[0] = CACHE_SECONDS + 1
    with pytest.raises(UnauthenticatedError, match="revoked"):
        elsewhere.authenticate(made.secret)


def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_remembered(store: Store, admin: Caller) -> None:
    class RevokedMeanwhile(Keys):
        def _look_up(self, digest: str) -> Caller:
            found = super()._look_up(digest)
            self.revoke(admin, found.key_id)
            return found

    made = Keys(store).create(admin, name="ci", role=Role.VIEWER)
    keys = RevokedMeanwhile(store)
    assert keys.authenticate(made.secret).key_id == made.key.key_id
    with pytest.raises(UnauthenticatedError, match="revoked"):
        keys.authenticate(made.secret)


def test_an_expired_key_is_refused(store: Store, admin: Caller) -> None:
    made = Keys(store).create(admin, name="old", role=Role.MEMBER, expires_in_seconds=-1)
    with pytest.raises(UnauthenticatedError, match="expired"):
        Keys(store).authenticate(made.secret)
    assert made.key.expires_at is not None
    assert made.key.expires_at < made.key.created_at + timedelta(seconds=1)


@pytest.mark.parametrize("secret", ["", "tp_", "tp_short", "sk-something", "tp_" + "x" * 49])
def test_a_malformed_key_is_refused_without_a_look_up(store: Store, secret: str) -> None:
    with pytest.raises(UnauthenticatedError, match="not an API key of this pool"):
        Keys(store).authenticate(secret)


def test_an_unknown_key_is_refused(store: Store, admin: Caller) -> None:
    with pytest.raises(UnauthenticatedError, match="not known"):
        Keys(store).authenticate(make_secret())


def test_only_admins_manage_keys_and_teams(store: Store, admin: Caller) -> None:
    made = Keys(store).create(admin, name="ci", role=Role.MEMBER)
    member = Keys(store).authenticate(made.secret)
    with pytest.raises(ForbiddenError):
        Keys(store).create(member, name="more", role=Role.ADMIN)
    with pytest.raises(ForbiddenError):
        Keys(store).revoke(member, admin.key_id)
    with pytest.raises(ForbiddenError):
        Teams(store).create(member, "mine")


def test_an_admin_cannot_lock_itself_out(store: Store, admin: Caller) -> None:
    with pytest.raises(ConflictError, match="this very request"):
        Keys(store).revoke(admin, admin.key_id)


def test_a_team_sees_itself_only(store: Store, admin: Caller) -> None:
    other = Teams(store).create(admin, "other")
    made = Keys(store).create(admin, name="ci", role=Role.MEMBER)
    member = Keys(store).authenticate(made.secret)
    assert [team.name for team in Teams(store).list(member)] == ["default"]
    assert [team.name for team in Teams(store).list(admin)] == ["default", "other"]
    with pytest.raises(NotFoundError):
        Teams(store).get(member, other.team_id)
    assert {key.key_id for key in Keys(store).list(member)} == {admin.key_id, made.key.key_id}


@pytest.mark.parametrize("name", ["", "Upper", "has space", "a/b", "-x", "x" * 64])
def test_a_bad_team_name_is_refused(store: Store, admin: Caller, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a team's name"):
        Teams(store).create(admin, name)


def test_an_unknown_team_is_refused_with_those_that_exist(store: Store, admin: Caller) -> None:
    with pytest.raises(InvalidRequestError, match="there are default"):
        Keys(store).create(admin, name="ci", role=Role.MEMBER, team="nobody")


def test_secrets_carry_a_checksum() -> None:
    secret = make_secret()
    assert is_well_formed(secret)
    assert not is_well_formed(secret[:-1] + ("0" if secret[-1] != "0" else "1"))
