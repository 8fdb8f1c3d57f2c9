#define NETDEV 1
