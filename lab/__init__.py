"""Several swarm hosts on one machine, made of namespaces: the base of every multi-host test.

Each host has its own net, mount, pid, uts, ipc and cgroup namespaces, its own /run, /var/lib, /proc and /sys and its
own cgroup subtree. A switch (a bridge in a namespace of its own) joins them, and a registry hangs on it. Nothing of a
lab touches the machine's own network; everything is found again, and removed, by the lab's cgroup.
See docs/lab.md.
"""
