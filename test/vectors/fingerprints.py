"""Makes fingerprints.json from docs/FORMAT.md alone, with Python's standard library: python3 test/vectors/fingerprints.py

It shares no code with the library, and the keys of its users are throw-away.
"""

import base64
import hashlib
import hmac
import json
import struct
import unicodedata
from pathlib import Path

# ECMA-262, WhiteSpace and LineTerminator. Python's own strip() takes U+001C to U+001F and U+0085 too, and not U+FEFF.
SPACE = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
STEPS = {
    "trim": lambda text: text.strip(SPACE),
    "lowercase": str.lower,
    "nfc": lambda text: unicodedata.normalize("NFC", text),
}


def pae(*pieces):
    encoded = [piece.encode() for piece in pieces]
    return struct.pack("<Q", len(encoded)) + b"".join(struct.pack("<Q", len(e)) + e for e in encoded)


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def fingerprint(dek, user, version, name, value, normalize=(), bits=256):
    steps = [step for step in STEPS if step in normalize]
    kind = [name] if not steps and bits == 256 else [name, "+".join(steps), str(bits)]
    of_key = [user] if version == 1 else [user, str(version)]
    label = "drizzle-keystore/fingerprint/v1" if version == 1 else "drizzle-keystore/fingerprint/v2"
    key = mac(dek, pae(label, *of_key, *kind))
    for step in steps:
        value = STEPS[step](value)
    number = int.from_bytes(mac(key, value.encode()), "big") >> (256 - bits)
    size = (bits + 7) // 8
    truncated = (number << (size * 8 - bits)).to_bytes(size, "big")
    text = base64.urlsafe_b64encode(truncated).decode().rstrip("=")
    return key.hex(), ("f1:" if version == 1 else f"f2:{version}:") + text


def dek_of(user, version):
    return hashlib.sha256(f"throw-away data key/{user}/{version}".encode()).digest()


def cases():
    plain = [("api_key", "sk-1", {}), ("", "", {}), ("ключ", "🔐", {})]
    steps = [
        ("api_key", "  sk-1\n", {"normalize": ["trim"]}),
        ("api_key", "\ufeff\u00a0 sk-1 \u3000\u2028", {"normalize": ["trim"]}),
        ("api_key", "\u0085sk-1\u001f", {"normalize": ["trim"]}),
        ("email", "Alice@Example.ORG", {"normalize": ["lowercase"]}),
        ("name", "ΑΝΝΟΥΣ İSTANBUL STRASSE ẞ", {"normalize": ["lowercase"]}),
        ("name", "Ame\u0301lie", {"normalize": ["nfc"]}),
        ("name", "Am\u00e9lie", {"normalize": ["nfc"]}),
        ("name", "\t AME\u0301LIE \u212b ", {"normalize": ["nfc", "lowercase", "trim"]}),
        ("api_key", "sk-1", {"normalize": ["trim"]}),
        ("api_key", "sk-1", {"normalize": ["trim", "lowercase", "nfc"]}),
    ]
    short = [("pin", "1234", {"bits": bits}) for bits in (1, 4, 7, 8, 9, 12, 16, 63, 128, 255)]
    both = [("postcode", " ec1a 1BB ", {"normalize": ["trim", "lowercase"], "bits": 12})]
    for user, version in [("alice", 1), ("alice", 2), ("", 1), ("", 7), ("Ünïcödé-日本語-🔑", 2147483647)]:
        for name, value, options in plain + steps + short + both:
            dek = dek_of(user, version)
            key, made = fingerprint(dek, user, version, name, value, **options)
            yield {"user": user, "version": version, "dek": dek.hex(), "name": name, **options, "value": value, "key": key, "fingerprint": made}


how = "Made by fingerprints.py from docs/FORMAT.md. All keys are throw-away. Bytes are in hex."
lines = ",\n".join("  " + json.dumps(case) for case in cases())
Path(__file__).with_name("fingerprints.json").write_text(f'{{\n "how": "{how}",\n "fingerprints": [\n{lines}\n ]\n}}\n')
