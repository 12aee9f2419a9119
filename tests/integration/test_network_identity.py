"""Whose a network is: its keys say so, not its name, which is short."""

from __future__ import annotations

import json

import pytest
from netbox import ALLOWLIST, World

from coi.errors import RefusedError
from coi.testing.machine import query

KEY = "user.coi.policy"
WIDE = {"action": "allow", "state": "enabled"}


@pytest.mark.parametrize("digits", [8, 16, 31])
def test_a_policy_of_the_same_name_is_another(box: World, digits: int) -> None:
    """As one would be whose hash begins as this one's does, so that the names collide."""
    fence = box.fence()
    made = fence.prepare()
    acl = f"/1.0/network-acls/{made.acl}"
    config = query(acl)["config"]
    assert config[KEY] == ALLOWLIST.hash

    def be(policy: str) -> None:
        body = {"config": {**config, KEY: policy}, "egress": [WIDE]}
        query(acl, "-X", "PUT", "-d", json.dumps(body))
        assert query(acl)["config"][KEY] == policy

    other = ALLOWLIST.hash[:digits].ljust(32, "g")
    be(other)
    for step in ("verify", "prepare"):
        with pytest.raises(RefusedError) as caught:
            fence.verify(made) if step == "verify" else fence.prepare()
        assert "not coi's" in caught.value.brief + caught.value.details
        assert query(acl)["egress"] == [WIDE], "it is left alone"
    be(ALLOWLIST.hash)  # the control: it is mended where it is the policy's
    assert fence.prepare() == made
    assert "destination" in query(acl)["egress"][0]


def test_a_record_has_the_whole_hash(box: World) -> None:
    """It is named by the network ACL, whose name is short, and is used for its policy alone."""
    made = box.fence().prepare()
    (record,) = box.scope.directory.glob(f"attached-{made.acl}*.json")
    assert len(ALLOWLIST.hash) == 32
    text = record.read_text()
    assert ALLOWLIST.hash in text
    assert box.fence().recorded() == made
    record.write_text(text.replace(ALLOWLIST.hash, ALLOWLIST.hash[:31].ljust(32, "g")))
    assert box.fence().recorded() is None
