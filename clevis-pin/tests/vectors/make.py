#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tokens/*.jwe next to this file. See README.md. Needs the Python package `cryptography`.

This is a second implementation of the token format on purpose: it shares no code with the crate.
The initialisation vector is fixed so that running it again changes nothing. Never do that elsewhere.
"""

import base64
import hashlib
import hmac
import json
import pathlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = b"test-only-key-0123456789-abcdef!"
PLAINTEXT = b"test-only plaintext \x00 with NUL and \xff\xfe bytes, as long as a share."
IV = bytes(range(12))
OUT = pathlib.Path(__file__).parent / "tokens"

SERVERS = [{"url": "http://127.0.0.1:8080", "cert": ""}]
FLAT = {"pin": "trustee", "servers": SERVERS, "path": "default/machine/root"}


def b64u(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def kid(key):
    return b64u(hmac.new(key, b"clevis-pin-trustee kid v1", hashlib.sha256).digest()[:16]).decode()


def header(clevis, compact=True):
    separators = (",", ":") if compact else (", ", " : ")
    return json.dumps({"alg": "dir", "enc": "A256GCM", "clevis": clevis}, separators=separators).encode()


def seal(head, key=KEY, plaintext=PLAINTEXT, iv=IV):
    """The five segments of a token."""
    protected = b64u(head)
    sealed = AESGCM(key).encrypt(iv, plaintext, protected)
    return [protected, b"", b64u(iv), b64u(sealed[:-16]), b64u(sealed[-16:])]


def write(name, segments, before=b"", after=b"", join=b"."):
    (OUT / f"{name}.jwe").write_bytes(before + join.join(segments) + after)


def changed(segments, index, new):
    return [new if i == index else s for i, s in enumerate(segments)]


def flip(segment, bit=1):
    """Changes one bit of the bytes behind a segment."""
    data = bytearray(base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
    data[0] ^= bit
    return b64u(bytes(data))


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.jwe"):
        if "jose" not in old.name:
            old.unlink()
    flat = seal(header(FLAT))
    ours = header(dict(FLAT, trustee={"v": 1, "cfg": "cf" * 32, "kid": kid(KEY)}))
    initdata = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\nuuid = "u"\n"aa.toml" = "x"\n'

    # The members and their order as the older pin has written them over time.
    write("ok-upstream-flat", flat)
    write("ok-upstream-initdata-null", seal(header(dict(FLAT, initdata=None))))
    write("ok-upstream-initdata", seal(header(dict(FLAT, initdata=initdata))))
    write("ok-upstream-num-retries", seal(header(dict(FLAT, num_retries=7))))
    write("ok-upstream-num-retries-infinity", seal(header(dict(FLAT, num_retries="infinity"))))
    registration = {"registration": {"url": "http://127.0.0.1:3001", "uuid": "u", "cert": ""}}
    write("ok-upstream-attestation-key", seal(header(dict(FLAT, attestation_key=registration))))
    write("ok-ours", seal(ours))
    write("ok-header-with-spaces", seal(header(FLAT, compact=False)))
    write("ok-trailing-newline", flat, after=b"\n")
    write("ok-trailing-spaces", flat, after=b" \r\n\t\n")
    write("ok-iv-of-zeros", seal(header(FLAT), iv=bytes(12)))

    # Made with a key that the KBS no longer returns; then the same with only the header changed.
    ours_of_zeros = ours.replace(kid(KEY).encode(), kid(bytes(32)).encode())
    write("kid-another-key", seal(ours_of_zeros, key=bytes(32)))
    write("kid-changed-in-header", changed(seal(ours), 0, b64u(ours_of_zeros)))

    write("notauthentic-another-key-under-our-kid", seal(ours, key=bytes(32)))
    write("notauthentic-another-key", seal(header(FLAT), key=bytes(32)))
    write("notauthentic-wrong-tag", changed(flat, 4, flip(flat[4])))
    write("notauthentic-wrong-iv", changed(flat, 2, flip(flat[2])))
    write("notauthentic-changed-ciphertext", changed(flat, 3, flip(flat[3], 0x80)))
    write("notauthentic-ciphertext-one-byte-short", changed(flat, 3, b64u(base64.urlsafe_b64decode(flat[3] + b"==")[:-1])))
    other_path = header(dict(FLAT, path="default/other/root"))
    write("notauthentic-changed-path", changed(flat, 0, b64u(other_path)))
    write("notauthentic-header-spelled-anew", changed(flat, 0, b64u(header(FLAT, compact=False))))
    write("notauthentic-header-of-another-token", changed(flat, 0, seal(ours)[0]))
    write("notauthentic-kid-taken-away", changed(seal(ours), 0, flat[0]))

    write("malformed-empty", [])
    write("malformed-dots-only", [b""] * 5)
    write("malformed-four-segments", flat[:4])
    write("malformed-six-segments", flat + [b""])
    write("malformed-truncated-in-ciphertext", flat[:3] + [flat[3][:20]])
    write("malformed-segments-reversed", flat[::-1])
    write("malformed-iv-and-tag-exchanged", [flat[0], b"", flat[4], flat[3], flat[2]])
    write("malformed-key-and-iv-exchanged", [flat[0], flat[2], b"", flat[3], flat[4]])
    write("malformed-encrypted-key", changed(flat, 1, b64u(KEY[::-1])))
    write("malformed-empty-iv", changed(flat, 2, b""))
    write("malformed-iv-of-16-bytes", changed(flat, 2, b64u(bytes(16))))
    write("malformed-iv-of-11-bytes", changed(flat, 2, b64u(IV[:11])))
    write("malformed-empty-tag", changed(flat, 4, b""))
    write("malformed-truncated-tag", changed(flat, 4, flat[4][:16]))
    write("malformed-tag-of-17-bytes", changed(flat, 4, b64u(bytes(17))))
    write("malformed-empty-ciphertext", seal(header(FLAT), plaintext=b""))
    write("malformed-padded-tag", changed(flat, 4, flat[4] + b"=="))
    write("malformed-padded-ciphertext", changed(flat, 3, flat[3] + b"=="))
    # 16 bytes leave four spare bits in the last of 22 characters; only A, Q, g, w have them all zero.
    assert flat[4][-1:] in b"AQgw"
    write("malformed-spare-bits-in-tag", changed(flat, 4, flat[4][:-1] + bytes([flat[4][-1] + 1])))
    write("malformed-standard-alphabet", changed(flat, 3, b"+/" + flat[3][2:]))
    write("malformed-space-inside", changed(flat, 3, flat[3][:8] + b" " + flat[3][8:]))
    write("malformed-newline-inside", changed(flat, 3, flat[3][:64] + b"\n" + flat[3][64:]))
    write("malformed-leading-space", flat, before=b" ")
    write("malformed-nul-after", flat, after=b"\0")
    write("malformed-second-token-after", flat, after=b"\n" + b".".join(flat))
    write("malformed-not-ascii", changed(flat, 4, flat[4][:-1] + b"\xff"))
    write("malformed-separated-by-commas", flat, join=b",")
    write("malformed-header-not-utf8", seal(header(FLAT).replace(b"machine", b"m\xff\xfechine")))
    write("malformed-header-utf16", seal(header(FLAT).decode().encode("utf-16-le")))
    members = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    flattened = json.dumps({m: s.decode() for m, s in zip(members, flat)}).encode()
    write("malformed-flattened-json", [flattened])


main()
