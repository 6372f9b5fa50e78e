"""The functions of `import bertjax`: thin, with arguments in place of flags.

What they call logs and prints nothing (`processes.terminal`). Errors name arguments (`arguments`).
"""
