"""What library code logs: silent by itself, on the right stream within a command."""

import logging

from bertjax.processes import terminal

LOG = logging.getLogger("bertjax.some.module")


def lines():
    LOG.info("a result")
    LOG.info("aside", extra=terminal.STDERR)
    LOG.warning("a warning")
    LOG.warning("an alarm", extra=terminal.ALARM)


def test_a_command_prints_information_on_stdout_and_warnings_on_stderr(capfd):
    with terminal.shown():
        assert terminal.is_shown()
        lines()
    assert capfd.readouterr() == ("a result\n", "aside\na warning\nan alarm\n")


def test_without_a_command_the_log_is_its_readers(capfd, caplog):
    lines()
    assert not terminal.is_shown()
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == ["a warning", "an alarm"]  # Python's own level


def test_a_command_leaves_the_logger_as_it_was(caplog):
    logger = logging.getLogger("bertjax")
    before = logger.level, logger.propagate, list(logger.handlers)
    with terminal.shown():
        LOG.info("x")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    assert caplog.messages == []
