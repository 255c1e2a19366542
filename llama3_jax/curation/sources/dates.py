"""Dates of records to UTC."""

import datetime


def parse_date(value: str | int | float | datetime.date | None) -> datetime.datetime | None:
    """A moment in UTC, to the microsecond; None for None and "".

    Accepts ISO 8601 (WARC's W3C form among it, with more digits of a second than Python knows), a date alone, seconds
    since 1970, and Parquet's dates and timestamps. A value without a time zone is in UTC. Raises ValueError for others.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        raise ValueError("a boolean is no date")
    try:
        moment = _moment(value)
        return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)
    except (OverflowError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"no date: {value!r}") from error


def _moment(value: str | int | float | datetime.date) -> datetime.datetime:
    if isinstance(value, int | float):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    return datetime.datetime.fromisoformat(value.strip())
