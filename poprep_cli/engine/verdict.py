"""What the results of trials mean for a pass: by which method it would log in, and what to change in the configuration."""

from __future__ import annotations

from poprep_cli.engine.trial_report import Result, TrialReport
from poprep_cli.net.detect import Memory


def conclude(report: TrialReport, memory: Memory, announcements: str) -> None:
    """Fill in what a pass would use, and advice. `memory` is the last pass's, valid under the same announcements."""
    results = [result for result in report.results if result.enabled]
    if memory.method and memory.announcements == announcements:
        report.remembered = memory.method
        results.sort(key=lambda result: result.method != memory.method)
    report.poll_uses = _first_that_works(results)
    key = "pop3.auth" if report.protocol == "POP3" else "smtp.auth"
    if any(result.outcome == "works" for result in report.results):
        report.advice += _costs(report, key)
        report.advice += _switched_off(report, key)
    elif any(result.outcome == "refused" for result in report.results):
        login = key.removesuffix("auth")
        report.advice.append(f"check {login}user and {login}password; many providers want an app password here")
    elif report.results and all(result.outcome == "skipped" for result in report.results):
        report.advice.append(f"no method could be tried; {key} says which are enabled")


def _first_that_works(results: list[Result]) -> str:
    """Return the first that works in the order of trying, "" if there is none or one before it has no certain end."""
    for result in results:
        if result.outcome == "works":
            return result.method
        if result.outcome == "not tried" or result.of_password or result.temporary:
            return ""
    return ""


def _costs(report: TrialReport, key: str) -> list[str]:
    """Tell which methods are tried in vain by a pass before it comes to the one that works."""
    when = "whenever a pass tries all methods afresh, at least once a week" if key == "pop3.auth" else "at each pass"
    found = []
    for result in report.results:
        if result.method == report.poll_uses:
            break
        if result.enabled and (result.outcome == "refused" or (result.outcome == "failed" and not result.temporary)):
            cost = "a reconnect" if result.hung_up else "a round trip"
            verb = "refused" if result.outcome == "refused" else "fails"
            found.append(f"{result.method} is announced but {verb}: remove it from {key}, it costs {cost} {when}")
    return found


def _switched_off(report: TrialReport, key: str) -> list[str]:
    """Tell which methods work but are not enabled."""
    off = [result.method for result in report.results if result.outcome == "works" and not result.enabled]
    return [f"{method} works but is not in {key}: a pass does not use it" for method in off]
