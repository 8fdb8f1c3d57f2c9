"""kproof: prove what a kernel patch does, in virtual machines, with pytest.

The package has floors; a module imports only from floors below its own (see docs/architecture.md):

    5  cli.py           the verbs
    4  verdict/         what follows from results
    3  pytest_plugin/   workers that are guests; evidence per test
    2  guest/           machine, image, launchers, channel
    1  kernel/          source, series, kconfig, build, store
    0  model.py, errors.py, events.py, paths.py, command.py
"""

__version__ = "0.1.0"
