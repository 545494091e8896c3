// CPUATTN_API: what a shared library exports. CMake defines CPUATTN_SHARED for it and its users.
#pragma once

#if !defined(CPUATTN_SHARED)
#define CPUATTN_API
#elif !defined(_WIN32)
#define CPUATTN_API __attribute__((visibility("default")))
#elif defined(CPUATTN_BUILDS)
#define CPUATTN_API __declspec(dllexport)
#else
#define CPUATTN_API __declspec(dllimport)
#endif
