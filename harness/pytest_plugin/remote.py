"""What xdist executes in a guest instead of its own ``xdist.remote`` (hook ``pytest_xdist_getremotemodule``)."""

if __name__ == "__channelexec__":
    from harness.pytest_plugin import session

    channel = globals()["channel"]  # put there by execnet
    workerinput, args, _options, _host_path = channel.receive()
    session.run(channel, workerinput, args)
