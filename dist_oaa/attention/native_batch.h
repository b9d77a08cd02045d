// What the update of a batch works on: shared by all instruction sets.
#pragma once

#include <cstdint>

namespace {

enum { CAM_FLOAT32, CAM_FLOAT16, CAM_BFLOAT16 };
enum { GATE_STRICT, GATE_TOPK, GATE_PROB, GATE_NONE };  // gates.py
enum { FUSE_MAX, FUSE_AVERAGE };                        // fusions.py

const int32_t INFINITY_BITS = 0x7f800000;
const int MAX_SIZE = 1024 + 16;  // cells along a side of a map, and a vector's overhang

struct BFloat16 {
  uint16_t bits;
};

}  // namespace

extern "C" {

// Packed by native.py, field by field. Strides count elements.
struct Batch {
  void* grid;
  int32_t* accepted;
  uint8_t* fallen;
  uint8_t* dirty;
  const void* cam;
  const float* logits;
  const uint8_t* labels;
  const float* geometry;
  const int64_t* cells;
  const int64_t* image;
  const int64_t* class_;
  const int64_t* row;
  uint8_t* flags;
  int64_t cam_stride[4];
  int64_t pitch;
  int64_t rows;
  int64_t pairs;
  int64_t images;
  int64_t classes;
  int32_t height;
  int32_t width;
  int32_t map_size;
  int32_t grid_bytes;
  int32_t cam_type;
  int32_t gate;
  int32_t fusion;
  int32_t fallback;
  float threshold;
};

}  // extern "C"

namespace {

// Every gate counts, so that NaN needs no special care: it beats nothing, and nothing beats it.
bool gate_accepts(const Batch& batch, int64_t image, int64_t c) {
  const float* logits = batch.logits + image * batch.classes;
  const uint8_t* labels = batch.labels + image * batch.classes;
  const float score = logits[c];
  if (batch.gate == GATE_NONE) return true;
  if (score != score) return false;
  if (batch.gate == GATE_PROB) return score >= batch.threshold;
  int64_t unbeaten = 0, higher = 0, targets = 0;
  for (int64_t k = 0; k < batch.classes; ++k) {
    unbeaten += !labels[k] & !(score > logits[k]);
    higher += logits[k] > score;
    targets += labels[k] != 0;
  }
  return batch.gate == GATE_STRICT ? unbeaten == 0 : higher < targets;
}

// Where map cells fall along one axis of the features.
struct Cells {
  int near[MAX_SIZE], far[MAX_SIZE];
  float weight[MAX_SIZE];  // of `far`
  int inside[MAX_SIZE];
  int all_inside;
};

struct Scratch {
  int pitch, line_pitch, ahead_lines;
  const char* ahead;  // memory to ask for: cache lines of the next pair's maps
  float* features;  // valid features, rows of `pitch`
  float* lines;     // the same, interpolated at the map's columns, rows of `line_pitch`
  float* centres;   // of the map's cells
  void* stored;     // A in the stored format
  uint8_t* inside;  // of each cell of the map
  const float* placed;  // the geometry that `columns` and `rows` were made for
  Cells columns, rows;
};

}  // namespace
