"""Identifiers: a prefix that names the noun, then a UUIDv7 in hex.

UUIDv7 (RFC 9562, section 5.7) begins with the Unix time in milliseconds, so identifiers sort by creation and
index well; the standard library has it only from Python 3.14.
"""

import os
import time


def new_uuid7_hex() -> str:
    """Return 32 hex digits: 48 bits of milliseconds, version 7, 12 bits of their fraction, variant, 62 random bits.

    The fraction (RFC 9562, section 6.2, method 3) keeps identifiers of one process in order within a millisecond too.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    random = int.from_bytes(os.urandom(8), "big")
    value = (milliseconds & (2**48 - 1)) << 80
    value |= 0x7 << 76
    value |= (rest * 4096 // 1_000_000) << 64
    value |= 0b10 << 62
    value |= random & (2**62 - 1)
    return f"{value:032x}"


def new_job_id() -> str:
    return "ftjob-" + new_uuid7_hex()


def new_array_id() -> str:
    return "ftarray-" + new_uuid7_hex()


def new_attempt_id() -> str:
    return "attempt-" + new_uuid7_hex()


def new_file_id() -> str:
    return "file-" + new_uuid7_hex()


def new_upload_id() -> str:
    return "upload_" + new_uuid7_hex()


def new_part_id() -> str:
    return "part_" + new_uuid7_hex()


def new_event_id() -> str:
    return "ftevent-" + new_uuid7_hex()


def new_checkpoint_id() -> str:
    return "ftckpt_" + new_uuid7_hex()


def new_adapter_id() -> str:
    return "adapter-" + new_uuid7_hex()


def new_team_id() -> str:
    return "team-" + new_uuid7_hex()


def new_key_id() -> str:
    return "key-" + new_uuid7_hex()


def new_lease_token() -> str:
    """A lease token is a secret between the control plane and one supervisor: 128 random bits."""
    return os.urandom(16).hex()
