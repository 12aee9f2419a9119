"""Entries of allowed_domains: one spelling each, and what is refused, and why."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coi.config.hosts import domain, entry
from coi.config.kinds import Wrong


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a.com", "a.com"),
        ("API.GitHub.com", "api.github.com"),
        ("a.com.", "a.com"),
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("MÜNCHEN.de.", "xn--mnchen-3ya.de"),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        ("\uff41。com", "a.com"),  # full-width forms, which programs read as ASCII
        ("例え.jp", "xn--r8jz45g.jp"),
        ("_x.a-b.c", "_x.a-b.c"),
        ("my_bucket.s3.amazonaws.com", "my_bucket.s3.amazonaws.com"),
        ("nas", "nas"),
        ("printer.local", "printer.local"),
        ("3com.com", "3com.com"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        ("8.8.8.8", "8.8.8.8"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_one_spelling(text: str, same: str) -> None:
    assert entry(text) == same
    assert entry(same) == same


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be a domain name"),
        (".", "must be a domain name"),
        ("a.com..", "must be a domain name"),
        (".a.com", "must be a domain name"),
        ("a..b", "must be a domain name"),
        (" a.com", "must be a domain name"),
        ("a.com\n", "must be a domain name"),
        ("a\0.com", "must be a domain name"),
        ("a\0.com", r"not the string 'a\\x00.com'"),
        ("ä\0.com", "must be a domain name"),
        ("a b.com", "must be a domain name"),
        ("-a.com", "must be a domain name"),
        ("a-.com", "must be a domain name"),
        ("a.com,b.com", "must be a domain name"),
        ("a" * 64 + ".com", "must be a domain name"),
        ("ä" * 64 + ".com", "must be a domain name"),
        ("a." * 127 + "com", "must be a domain name"),
        ("a\u202e.com", "must be a domain name"),
        ("a.com\\", "must be a domain name"),
        ("*.a.com", "list each subdomain"),
        ("https://b.com/x", "without scheme, port, path"),
        ("b.com/", "without scheme, port, path"),
        ("b.com:443", "without scheme, port, path"),
        ("8.8.8.8:53", "without scheme, port, path"),
        ("me@b.com", "without scheme, port, path"),
        ("b.com\uff0fx", "must be a domain name"),
        ("straße.de", "written as xn--"),
        ("a\u200db.com", "written as xn--"),
        ("1.2.3", "four decimal numbers"),
        ("999.1.1.1", "four decimal numbers"),
        ("010.1.1.1", "four decimal numbers"),
        ("2130706433", "four decimal numbers"),
        ("0x7f.1", "four decimal numbers"),
        ("a.0x7f", "four decimal numbers"),
        ("\uff11.\uff11.\uff11.\uff11", "four decimal numbers"),
        ("1.2.3.4.", "four decimal numbers"),
        ("1.2.3.4/8", r"must be a network \(1.0.0.0/8\) or a single address \(1.2.3.4\)"),
        ("1.2.3.4/33", "prefix from 0 to 32"),
        ("1.2.3.0/255.255.255.0", "prefix from 0 to 32"),
        ("1.2.3.0/", "prefix from 0 to 32"),
        ("2001:db8::1", "sessions have no IPv6"),
        ("::ffff:8.8.8.8", "sessions have no IPv6"),
        ("2001:db8::/32", "sessions have no IPv6"),
        ("fe80::1%eth0", "sessions have no IPv6"),
        ("[::1]:80", "without scheme, port, path"),
        ("localhost", "inside, localhost is the session itself"),
        ("Db.LocalHost.", "inside, localhost is the session itself"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(Wrong, match=reason):
        entry(text)


@pytest.mark.parametrize("value", [None, 8, True, ["a.com"], {}])
def test_no_text(value: object) -> None:
    with pytest.raises(Wrong, match="must be a domain name or an IPv4 address"):
        entry(value)


def test_a_domain_is_no_address() -> None:
    with pytest.raises(Wrong, match="four decimal numbers"):
        domain("8.8.8.8")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.text("aäA.-_*:/0x1\uff19。ß", max_size=20))
def test_whatever_is_given_is_safe_or_refused(text: str) -> None:
    try:
        found = entry(text)
    except Wrong:
        return
    assert entry(found) == found
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
    if "/" in found or found.replace(".", "").isdigit():
        ipaddress.IPv4Network(found)
