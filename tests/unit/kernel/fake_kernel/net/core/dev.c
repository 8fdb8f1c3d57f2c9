/* the fake core */
int netdev_pick(int queues)
{
	int index = 0;

	if (queues > 1)
		index = queues - 1;
	return index;
}

int netdev_drop(int reason)
{
	if (reason < 0)
		return -1;
	return reason;
}

int netdev_count(void)
{
	return 42;
}
