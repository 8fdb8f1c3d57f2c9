"""What xdist executes in a guest instead of its own ``xdist.remote`` (hook ``pytest_xdist_getremotemodule``).

It does the same but for two things: ``sys.path`` is the guest's own, and plugins are handed over, because looking for
entry points costs an emulated guest half a second.
"""

if __name__ == "__channelexec__":
    import os

    import xdist.plugin
    from _pytest.config import _prepareconfig
    from xdist.remote import WorkerInteractor, setup_config

    import harness.pytest_plugin

    channel = globals()["channel"]  # put there by execnet
    workerinput, args, option_dict, _host_path = channel.receive()

    os.chdir(workerinput["kproof_folder"])
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["PYTEST_XDIST_TESTRUNUID"] = workerinput["testrunuid"]
    os.environ["PYTEST_XDIST_WORKER"] = workerinput["workerid"]
    os.environ["PYTEST_XDIST_WORKER_COUNT"] = str(workerinput["workercount"])

    config = _prepareconfig(["-p", "no:cacheprovider", *args], [xdist.plugin, harness.pytest_plugin])
    setup_config(config, None)
    config._parser.prog = os.path.basename(workerinput["mainargv"][0])
    config.workerinput = workerinput  # type: ignore[attr-defined]
    config.workeroutput = {}  # type: ignore[attr-defined]
    WorkerInteractor(config, channel)
    config.hook.pytest_cmdline_main(config=config)
