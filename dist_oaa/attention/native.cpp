// The update of a batch on the CPU: a plain C interface, loaded by native.py through ctypes, so
// that building it needs a C++ compiler and nothing of PyTorch.
#include <cstdlib>

#include "native_batch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define OAA_VERSIONS 1
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")
#define OAA_AVX512 1  // GCC 12 does not define __AVX512F__ after the pragma
namespace avx512 {
#include "native_sample.h"
#include "native_update.h"
}
#undef OAA_AVX512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
namespace avx2 {
#include "native_sample.h"
#include "native_update.h"
}
#pragma GCC pop_options
#endif
namespace baseline {
#include "native_sample.h"
#include "native_update.h"
}

namespace {

int round_up(int64_t count) { return (int)((count + 15) / 16 * 16); }

// Buffers for a batch, in one allocation that begins at a cache line.
Scratch* make_scratch(const Batch& batch) {
  const int64_t size = batch.map_size, pitch = round_up(batch.width);
  const int64_t line_pitch = round_up(size), map_cells = round_up(size * size);
  const int64_t floats = batch.height * (pitch + line_pitch) + 32 + line_pitch + map_cells + 16;
  const int64_t bytes = round_up(sizeof(Scratch)) + floats * 4 + map_cells + 256;
  Scratch* scratch = (Scratch*)std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!scratch) return nullptr;
  float* next = (float*)((char*)scratch + (sizeof(Scratch) + 63) / 64 * 64);
  auto take = [&next](int64_t count) {
    float* taken = next;
    next += count;
    return taken;
  };
  scratch->pitch = (int)pitch;
  scratch->line_pitch = (int)line_pitch;
  scratch->features = take(batch.height * pitch + 32);  // and what a window reads beyond
  scratch->lines = take(batch.height * line_pitch);
  scratch->centres = take(line_pitch);
  scratch->stored = take(map_cells + 16);  // and a vector's overhang
  scratch->inside = (uint8_t*)next;
  scratch->placed = nullptr;
  for (int j = 0; j < line_pitch; ++j) scratch->centres[j] = ((float)j + 0.5f) / (float)size;
  return scratch;
}

bool within(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

bool indices_hold(const Batch& batch) {
  for (int64_t p = 0; p < batch.pairs; ++p) {
    const int64_t image = batch.image[p];
    if (!within(image, 0, batch.images - 1) || !within(batch.class_[p], 0, batch.classes - 1) ||
        !within(batch.row[p], 0, batch.rows - 1) ||
        !within(batch.cells[2 * image], 1, batch.height) ||
        !within(batch.cells[2 * image + 1], 1, batch.width))
      return false;
  }
  return true;
}

}  // namespace

// Applies a batch. `level` bounds the instruction set: 0 baseline, 1 AVX2, 2 AVX-512.
// Returns 0; or, before anything is changed, 1 without memory and 2 for an index out of range.
extern "C" __attribute__((visibility("default"))) int oaa_accumulate(const Batch* batch, int level) {
  if (!indices_hold(*batch)) return 2;
  Scratch* scratch = make_scratch(*batch);
  if (!scratch) return 1;
#ifdef OAA_VERSIONS
  if (level >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    avx512::update(*batch, *scratch);
  else if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
    avx2::update(*batch, *scratch);
  else
#endif
    baseline::update(*batch, *scratch);
  std::free(scratch);
  return 0;
}
