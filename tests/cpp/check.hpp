// A test is a function that calls check(); main returns finish().
#pragma once

#include <cstdio>
#include <string>

namespace test {

struct Counts {
  int passed = 0;
  int failed = 0;
};

inline Counts& counts() {
  static Counts all;
  return all;
}

inline bool check(bool ok, const std::string& what) {
  ok ? ++counts().passed : ++counts().failed;
  if (!ok && counts().failed <= 20) std::printf("FAILED: %s\n", what.c_str());
  return ok;
}

inline int finish() {
  std::printf("%d passed, %d failed\n", counts().passed, counts().failed);
  return counts().failed == 0 && counts().passed > 0 ? 0 : 1;
}

}  // namespace test
