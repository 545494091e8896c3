#include "threads/cpus.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "threads/system.hpp"

namespace cpuattn {
namespace {

constexpr double kNoQuota = HUGE_VAL;

// cpu.max: "max 100000", or microseconds of a period and the period.
double quota_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period && quota > 0 && period > 0 ? quota / period : kNoQuota;
}

// The quota is -1 where there is none.
double quota_v1(const std::string& folder) {
  std::ifstream quotas(folder + "/cpu.cfs_quota_us"), periods(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quotas >> quota && periods >> period && quota > 0 && period > 0 ? quota / period
                                                                         : kNoQuota;
}

// The smallest quota of a group and those above it. A container may see its own group as the root,
// but be told its path outside: then the folders are not there, and the root counts.
double smallest_quota(const std::string& root, std::string group,
                      double (*quota)(const std::string&)) {
  double smallest = quota(root);
  while (group.size() > 1) {
    smallest = std::min(smallest, quota(root + group));
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
  return smallest;
}

bool names_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  std::string name;
  while (std::getline(list, name, ',')) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

int cpus_of_quota(const std::string& groups, const std::string& root) {
  std::ifstream file(groups);
  std::string id, controllers, group;
  double cpus = kNoQuota;
  // Lines of "id:controllers:group"; version 2 names no controllers.
  while (std::getline(file, id, ':') && std::getline(file, controllers, ':') &&
         std::getline(file, group)) {
    if (controllers.empty()) {
      cpus = std::min(cpus, smallest_quota(root, group, quota_v2));
    } else if (names_cpu(controllers)) {
      for (const std::string& name : {controllers, std::string("cpu")}) {
        std::string mount = root;
        mount.append("/").append(name);
        cpus = std::min(cpus, smallest_quota(mount, group, quota_v1));
      }
    }
  }
  if (cpus == kNoQuota || cpus > 1 << 16) return 0;
  return std::max(1, static_cast<int>(std::ceil(cpus)));
}

int cpus_of_process() {
  const int mask = cpus_of_mask();
  const int quota = cpus_of_quota("/proc/self/cgroup", "/sys/fs/cgroup");
  return quota > 0 ? std::min(mask, quota) : mask;
}

}  // namespace cpuattn
