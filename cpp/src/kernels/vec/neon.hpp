// NEON (every aarch64 CPU): the interface of scalar.hpp over 16-byte vectors.
#pragma once

#include <arm_neon.h>
#include <math.h>

#include <cstddef>
#include <cstdint>

#include "half.hpp"

namespace cpuattn {
namespace {

struct NeonF32 {
  using Element = float;
  using Vec = float32x4_t;
  using Mask = uint32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kPack = 1;
  static constexpr int kAccumulators = 24;
  static constexpr int kBlockVecs = 8;
  static constexpr int kTileVecs = 4;

  static Vec zero() { return vdupq_n_f32(0); }
  static Vec set1(float x) { return vdupq_n_f32(x); }
  static Vec load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Vec v) { vst1q_f32(p, v); }
  static Vec load(const Float16* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
  }
  static Vec load(const BFloat16* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16));
  }
  static Vec load(const std::int8_t* p) {
    float lane[4];
    for (int i = 0; i < 4; ++i) lane[i] = p[i];
    return load(lane);
  }
  static void store(Float16* p, Vec v) {
    vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(v)));
  }
  static void store(BFloat16* p, Vec v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(&p->bits, vshrn_n_u32(vbslq_u32(is_nan(v), quiet, rounded), 16));
  }
  static Vec load_partial(const float* p, std::ptrdiff_t n) {
    float lane[4] = {};
    for (std::ptrdiff_t i = 0; i < n; ++i) lane[i] = p[i];
    return load(lane);
  }
  static void store_partial(float* p, Vec v, std::ptrdiff_t n) {
    float lane[4];
    store(lane, v);
    for (std::ptrdiff_t i = 0; i < n; ++i) p[i] = lane[i];
  }
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    float lane[4];
    for (int i = 0; i < 4; ++i) lane[i] = i < n && p[i] != 0 ? 0.0f : -INFINITY;
    return load(lane);
  }

  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
  static Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
  static Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  static Vec max(Vec a, Vec b) { return select(vcgtq_f32(a, b), a, b); }
  static Vec min(Vec a, Vec b) { return select(vcltq_f32(a, b), a, b); }
  static Vec round(Vec v) { return vrndnq_f32(v); }
  static constexpr float kPow2Unit = 0x1p-24f;
  static Vec mul_pow2(Vec p, Vec n) {
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127 + 24));
    const int32x4_t power = vshlq_n_s32(vmaxq_s32(exponent, vdupq_n_s32(0)), 23);
    return mul(p, vreinterpretq_f32_s32(power));
  }
  static Vec split(Vec y, Vec* fraction) {
    const Vec bounded = max(set1(-151), y);
    const Vec n = vrndmq_f32(bounded);
    *fraction = sub(bounded, n);
    return n;
  }

  static Mask less(Vec a, Vec b) { return vcltq_f32(a, b); }
  static Mask equal(Vec a, Vec b) { return vceqq_f32(a, b); }
  static Mask is_nan(Vec v) { return vmvnq_u32(vceqq_f32(v, v)); }
  static bool any(Mask m) { return vmaxvq_u32(m) != 0; }
  static Vec select(Mask m, Vec yes, Vec no) { return vbslq_f32(m, yes, no); }

  static Vec sum_each(const Vec (&v)[kLanes]) {
    return vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]));
  }
  static void transpose(Vec (&v)[kLanes]) {
    const float32x4_t a = vtrn1q_f32(v[0], v[1]), b = vtrn2q_f32(v[0], v[1]);
    const float32x4_t c = vtrn1q_f32(v[2], v[3]), d = vtrn2q_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    v[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    v[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    v[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
  }
  static void prefetch(const void* p) {
    __asm__ volatile("prfm pldl2keep, %0" : : "Q"(*static_cast<const char*>(p)));
  }
};

struct NeonF64 {
  using Element = double;
  using Vec = float64x2_t;
  using Mask = uint64x2_t;
  static constexpr int kLanes = 2;
  static constexpr int kPack = 1;
  static constexpr int kAccumulators = 24;
  static constexpr int kBlockVecs = 8;
  static constexpr int kTileVecs = 4;

  static Vec zero() { return vdupq_n_f64(0); }
  static Vec set1(double x) { return vdupq_n_f64(x); }
  static Vec load(const double* p) { return vld1q_f64(p); }
  static void store(double* p, Vec v) { vst1q_f64(p, v); }
  static Vec load_partial(const double* p, std::ptrdiff_t n) {
    double lane[2] = {};
    for (std::ptrdiff_t i = 0; i < n; ++i) lane[i] = p[i];
    return load(lane);
  }
  static void store_partial(double* p, Vec v, std::ptrdiff_t n) {
    double lane[2];
    store(lane, v);
    for (std::ptrdiff_t i = 0; i < n; ++i) p[i] = lane[i];
  }
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    double lane[2];
    for (int i = 0; i < 2; ++i) lane[i] = i < n && p[i] != 0 ? 0.0 : -double(INFINITY);
    return load(lane);
  }

  static Vec add(Vec a, Vec b) { return vaddq_f64(a, b); }
  static Vec sub(Vec a, Vec b) { return vsubq_f64(a, b); }
  static Vec mul(Vec a, Vec b) { return vmulq_f64(a, b); }
  static Vec div(Vec a, Vec b) { return vdivq_f64(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f64(c, a, b); }
  static Vec max(Vec a, Vec b) { return select(vcgtq_f64(a, b), a, b); }
  static Vec min(Vec a, Vec b) { return select(vcltq_f64(a, b), a, b); }
  static Vec round(Vec v) { return vrndnq_f64(v); }
  static constexpr double kPow2Unit = 0x1p-53;
  static Vec mul_pow2(Vec p, Vec n) {
    const int64x2_t exponent = vaddq_s64(vcvtq_s64_f64(n), vdupq_n_s64(1023 + 53));
    const uint64x2_t normal = vcgtq_s64(exponent, vdupq_n_s64(0));
    const uint64x2_t power = vshlq_n_u64(vandq_u64(vreinterpretq_u64_s64(exponent), normal), 52);
    return mul(p, vreinterpretq_f64_u64(power));
  }
  static Vec split(Vec y, Vec* fraction) {
    const Vec bounded = max(set1(-1076), y);
    const Vec n = vrndmq_f64(bounded);
    *fraction = sub(bounded, n);
    return n;
  }

  static Mask less(Vec a, Vec b) { return vcltq_f64(a, b); }
  static Mask equal(Vec a, Vec b) { return vceqq_f64(a, b); }
  static Mask is_nan(Vec v) { return veorq_u64(vceqq_f64(v, v), vdupq_n_u64(~0ull)); }
  static bool any(Mask m) { return (vgetq_lane_u64(m, 0) | vgetq_lane_u64(m, 1)) != 0; }
  static Vec select(Mask m, Vec yes, Vec no) { return vbslq_f64(m, yes, no); }

  static Vec sum_each(const Vec (&v)[kLanes]) { return vpaddq_f64(v[0], v[1]); }
  static void transpose(Vec (&v)[kLanes]) {
    const float64x2_t a = vtrn1q_f64(v[0], v[1]);
    v[1] = vtrn2q_f64(v[0], v[1]);
    v[0] = a;
  }
  static void prefetch(const void* p) {
    __asm__ volatile("prfm pldl2keep, %0" : : "Q"(*static_cast<const char*>(p)));
  }
};

using Float32 = NeonF32;
using Float64 = NeonF64;

}  // namespace
}  // namespace cpuattn
