#!/usr/bin/env python3
"""Writes postgres.tsv: expressions of time, and what PostgreSQL 15 answers with its time zone set to UTC.

    python3 postgres.py "host=127.0.0.1 user=postgres" > postgres.tsv
"""
import subprocess
import sys

ZONES = {
    "Europe/Berlin": ["2026-03-29 00:59:59.5", "2026-03-29 01:00:00", "2026-10-25 00:30:00", "2026-10-25 01:30:00", "1893-03-31 23:00:00", "1945-05-24 00:30:00"],
    "America/New_York": ["2026-03-08 06:59:59", "2026-03-08 07:00:00", "2026-11-01 05:30:00", "2026-11-01 06:30:00", "1883-11-18 17:00:00"],
    "Asia/Kolkata": ["2026-01-15 20:15:00", "1969-12-31 18:29:59.25", "1945-10-14 17:30:00"],
    "Australia/Lord_Howe": ["2026-04-04 14:59:59", "2026-04-04 15:00:00", "2026-10-03 15:29:59", "2026-10-03 15:30:00"],
    "Asia/Kathmandu": ["2026-06-01 18:15:00", "1985-12-31 18:29:59", "1919-12-31 18:00:00"],
    "America/St_Johns": ["2006-04-02 03:31:00", "2026-03-08 05:30:00"],
    "America/Sao_Paulo": ["2018-11-04 02:59:59", "2018-11-04 03:00:00", "2019-02-17 01:30:00", "2019-02-17 02:30:00"],
    "Pacific/Apia": ["2011-12-30 09:59:59", "2011-12-30 10:00:00"],
    "Europe/Dublin": ["2026-03-29 00:30:00", "2026-10-25 01:00:00", "1969-01-01 00:00:00"],
    "Asia/Tokyo": ["1950-05-06 15:30:00", "1970-01-01 00:00:00"],
    "UTC": ["1969-12-31 23:59:59.999999", "2026-02-28 23:59:59"],
    "CET": ["2026-07-01 12:00:00"],
    "PDT": ["2026-01-01 00:00:00"],
}
LOCALS = {
    "Europe/Berlin": ["2026-03-29 01:59:59", "2026-03-29 02:00:00", "2026-03-29 02:30:00", "2026-03-29 03:00:00", "2026-10-25 01:59:59", "2026-10-25 02:00:00", "2026-10-25 02:59:59", "2026-10-25 03:00:00", "1893-04-01 00:03:00", "1880-01-01 00:00:00"],
    "America/New_York": ["2026-03-08 02:30:00", "2026-11-01 01:30:00", "1883-11-18 12:00:00", "1950-07-04 12:00:00"],
    "Asia/Kolkata": ["2026-01-16 01:45:00", "1942-09-01 00:30:00"],
    "Australia/Lord_Howe": ["2026-04-05 01:45:00", "2026-10-04 02:15:00"],
    "Asia/Kathmandu": ["1986-01-01 00:05:00", "1965-01-01 00:00:00"],
    "America/Sao_Paulo": ["2018-11-04 00:00:00", "2018-11-04 00:30:00", "2019-02-16 23:30:00"],
    "Pacific/Apia": ["2011-12-30 12:00:00", "2011-12-31 00:00:00"],
    "Europe/Dublin": ["2026-03-29 01:30:00", "2026-10-25 01:30:00"],
    "Europe/Moscow": ["2014-10-26 01:30:00"],
}
UNITS = ["hour", "day", "week", "month", "quarter", "year", "decade", "century"]
PLAIN = [
    "TIMESTAMPTZ '2026-01-15 20:15:00Z' AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-01-15 20:15:00' AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-01-15 22:15:00+02:00'",
    "(TIMESTAMPTZ '2026-01-15 20:15:00Z' AT TIME ZONE 'Europe/Berlin') AT TIME ZONE 'America/New_York'",
    "'2026-03-29 02:30:00' AT TIME ZONE 'Europe/Berlin'",
    "date_trunc('day', TIMESTAMPTZ '2026-03-29 12:00:00Z') >= TIMESTAMP '2026-03-29 00:00:00'",
    "TIMESTAMPTZ '2026-01-15 20:15:00Z' AT TIME ZONE INTERVAL '2 hours'",
    "timezone('Asia/Tokyo', TIMESTAMPTZ '2026-01-15 20:15:00Z')",
    "CAST(TIMESTAMPTZ '2026-01-15 23:30:00Z' AT TIME ZONE 'Europe/Berlin' AS DATE)",
    "CAST(TIMESTAMPTZ '2026-01-15 23:30:00Z' AS DATE)",
    "date_trunc('day', TIMESTAMPTZ '2026-03-29 12:00:00Z' AT TIME ZONE 'Europe/Berlin')",
    "date_trunc('day', TIMESTAMPTZ '2026-03-29 12:00:00Z' AT TIME ZONE 'Europe/Berlin') AT TIME ZONE 'Europe/Berlin'",
    "date_trunc('millisecond', TIMESTAMPTZ '1969-12-31 23:59:59.9996Z')",
    "date_trunc('second', TIMESTAMPTZ '1969-12-31 23:59:59.9996Z')",
    "date_trunc('hour', TIMESTAMPTZ '1969-12-31 23:59:59Z')",
    "date_trunc('week', TIMESTAMPTZ '1969-12-31 23:59:59Z')",
    "date_trunc('month', TIMESTAMPTZ '1960-02-29 12:00:00Z')",
    "date_bin('15 minutes', TIMESTAMPTZ '2026-03-29 01:07:00Z', TIMESTAMPTZ '2026-01-01 00:00:00Z')",
    "date_bin('1 day', TIMESTAMPTZ '1969-12-30 12:00:00Z', TIMESTAMPTZ '1970-01-01 06:00:00Z')",
    "date_bin('1 day', TIMESTAMPTZ '2026-03-29 22:30:00Z' AT TIME ZONE 'Europe/Berlin', TIMESTAMP '2026-01-01 00:00:00')",
    "CAST(extract(hour FROM TIMESTAMPTZ '2026-03-29 22:30:00Z' AT TIME ZONE 'Asia/Kathmandu') AS INT)",
    "CAST(extract(minute FROM TIMESTAMPTZ '2026-03-29 22:30:00Z' AT TIME ZONE 'Asia/Kathmandu') AS INT)",
    "CAST(extract(dow FROM TIMESTAMPTZ '2026-03-29 22:30:00Z') AS INT)",
    "CAST(extract(isodow FROM TIMESTAMPTZ '2026-03-29 22:30:00Z') AS INT)",
    "CAST(extract(dow FROM TIMESTAMPTZ '2026-03-29 22:30:00Z' AT TIME ZONE 'Europe/Berlin') AS INT)",
    "CAST(extract(doy FROM TIMESTAMPTZ '1968-12-31 22:30:00Z') AS INT)",
    "CAST(extract(week FROM TIMESTAMPTZ '2027-01-01 00:00:00Z') AS INT)",
    "CAST(extract(isoyear FROM TIMESTAMPTZ '2027-01-01 00:00:00Z') AS INT)",
    "CAST(extract(epoch FROM TIMESTAMPTZ '2026-03-29 22:30:00Z') AS BIGINT)",
    "CAST(extract(epoch FROM TIMESTAMPTZ '1969-12-31 23:00:00Z') AS BIGINT)",
    "CAST(extract(epoch FROM TIMESTAMPTZ '2026-03-29 22:30:00Z' AT TIME ZONE 'Europe/Berlin') AS BIGINT)",
    "CAST(extract(timezone FROM TIMESTAMPTZ '2026-03-29 22:30:00Z') AS INT)",
    "CAST(extract(timezone_hour FROM TIMESTAMPTZ '2026-03-29 22:30:00Z') AS INT)",
    "CAST(extract(century FROM TIMESTAMPTZ '2000-12-31 22:30:00Z') AS INT)",
    "CAST(extract(decade FROM TIMESTAMPTZ '1969-12-31 22:30:00Z') AS INT)",
    "CAST(extract(millennium FROM TIMESTAMPTZ '2001-01-01 00:00:00Z') AS INT)",
    "CAST(extract(year FROM TIMESTAMPTZ '2025-12-31 23:30:00Z' AT TIME ZONE 'Europe/Berlin') AS INT)",
    "TIMESTAMPTZ '2026-03-28 12:00:00Z' + INTERVAL '1 day'",
    "TIMESTAMPTZ '2026-01-31 12:00:00Z' + INTERVAL '1 month'",
    "(TIMESTAMPTZ '2026-03-28 12:00:00Z' AT TIME ZONE 'Europe/Berlin' + INTERVAL '1 day') AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-03-29 00:30:00Z' > TIMESTAMP '2026-03-29 00:00:00'",
    "TIMESTAMPTZ '2026-03-29 00:30:00Z' = '2026-03-29 02:30:00+02:00'",
    "TIMESTAMPTZ '2026-03-29 00:30:00Z' >= TIMESTAMP '2026-03-29 00:00:00' AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-03-28 23:30:00Z' >= TIMESTAMP '2026-03-29 00:00:00' AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-03-28 22:30:00Z' >= TIMESTAMP '2026-03-29 00:00:00' AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-03-29 00:00:00Z' = DATE '2026-03-29'",
    "TIMESTAMPTZ '2026-03-29 00:30:00Z' BETWEEN '2026-03-29' AND '2026-03-30'",
    "CAST('2026-03-29 02:30:00+02:00' AS TIMESTAMPTZ)",
    "CAST('2026-03-29 02:30:00' AS TIMESTAMP WITHOUT TIME ZONE)",
    "CAST(DATE '2026-03-29' AS TIMESTAMPTZ)",
    "CAST(TIMESTAMPTZ '2026-03-29 00:30:00Z' AS TIMESTAMP WITHOUT TIME ZONE)",
    "TIMESTAMPTZ '2026-07-01 12:00:00Z' AT TIME ZONE 'europe/berlin'",
    "TIMESTAMPTZ '2150-07-01 12:00:00Z' AT TIME ZONE 'Europe/Berlin'",
    "TIMESTAMPTZ '2026-07-01 12:00:00Z' AT TIME ZONE 'Etc/GMT+2'",
    "CAST(NULL AS TIMESTAMPTZ) AT TIME ZONE 'Europe/Berlin'",
    "to_char(TIMESTAMPTZ '2026-03-29 01:05:09.25Z' AT TIME ZONE 'Europe/Berlin', 'YYYY-MM-DD HH24:MI:SS.MS')",
    "to_char(TIMESTAMPTZ '1965-12-31 13:05:09Z', 'DD.MM.YY HH12:MI PM')",
    "to_char(TIMESTAMPTZ '2026-03-01 13:05:09Z', 'FMDD Mon YYYY, IYYY-IW, DDD')",
]


def expressions():
    yield from PLAIN
    for zone, times in ZONES.items():
        for time in times:
            yield f"TIMESTAMPTZ '{time}Z' AT TIME ZONE '{zone}'"
            for unit in UNITS:
                yield f"date_trunc('{unit}', TIMESTAMPTZ '{time}Z', '{zone}')"
    for zone, times in LOCALS.items():
        for time in times:
            yield f"TIMESTAMP '{time}' AT TIME ZONE '{zone}'"


def answer(expression):
    query = f"SET TIME ZONE 'UTC'; SELECT to_json({expression})"
    done = subprocess.run(["psql", sys.argv[1], "-qAt", "-v", "ON_ERROR_STOP=1", "-c", query], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{expression}: {done.stderr}")
    return done.stdout.strip().replace("+00:00", "Z") or "null"


print("# Made by postgres.py: an expression, a tab, and its answer as JSON.")
for expression in expressions():
    print(f"{expression}\t{answer(expression)}")
