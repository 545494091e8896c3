// How many CPUs the process may use.
#pragma once

#include <string>

namespace cpuattn {

// Those of its mask, or fewer if a container's quota of time is smaller.
int cpus_of_process();

// The whole CPUs that the quotas of control groups make, rounded up; 0 if there is no quota.
// `groups` says which groups hold (as /proc/self/cgroup), `root` is where they are mounted (as
// /sys/fs/cgroup). Version 2 is cpu.max, version 1 cpu.cfs_quota_us and cpu.cfs_period_us; the
// smallest quota on the way from the group to the root counts. See the Linux kernel's
// admin-guide/cgroup-v2 and scheduler/sched-bwc.
int cpus_of_quota(const std::string& groups, const std::string& root);

}  // namespace cpuattn
