// From the attention of each pair to the bank, for one instruction set: native.cpp includes this file
// once for each, after native_sample.h, whose rules hold here too.

static inline uint8_t fused_max(uint8_t a, uint8_t b, float) { return a > b ? a : b; }
static inline float fused_max(float a, float b, float) { return a > b ? a : b; }
static inline _Float16 fused_max(_Float16 a, _Float16 b, float) {
  return (float)a > (float)b ? a : b;
}

static inline float mean(float previous, float attention, float t) {
  return ((t - 1) * previous + attention) / t;
}
static inline void truncate(uint8_t* at, float value) { *at = (uint8_t)(int)value; }
static inline void truncate(_Float16* at, float value) { *at = (_Float16)value; }
static inline void truncate(float* at, float value) { *at = value; }

// Fuses the stored attention into M and, where the gate accepted it, makes it the last attention.
template <typename T>
static void fuse(T* map, T* last, const T* stored, const uint8_t* inside, int cells, int fusion,
                 float t, bool accept) {
  const bool first = t == 1;
  if (fusion == FUSE_MAX && !inside) {
    // The usual case, with nothing to select.
    if (first)
      __builtin_memcpy(map, stored, cells * sizeof(T));
    else
      for (int q = 0; q < cells; ++q) map[q] = fused_max(map[q], stored[q], t);
    if (accept) __builtin_memcpy(last, stored, cells * sizeof(T));
    return;
  }
  for (int q = 0; q < cells; ++q) {
    const T previous = first ? (T)0 : map[q];
    T next;
    if (fusion == FUSE_MAX)
      next = fused_max(previous, stored[q], t);
    else
      truncate(&next, mean((float)previous, (float)stored[q], t));
    map[q] = !inside || inside[q] ? next : previous;
  }
  if (accept)
    for (int q = 0; q < cells; ++q) last[q] = !inside || inside[q] ? stored[q] : last[q];
}

// One pair whose features lie in scratch and whose largest feature is `peak`.
template <typename T>
static void write_pair(const Batch& batch, Scratch& scratch, int height,
                       int width, float peak, const float* geometry, int64_t row, bool accept) {
  const int size = batch.map_size, cells = size * size;
  const float top = sizeof(T) == 1 ? 255.0f : 1.0f;
  float factor = top / peak;
  if (!(peak > 0) || __builtin_isinf(factor)) factor = 0;
  T* stored = (T*)scratch.stored;
  const uint8_t* inside = scratch.inside;
  if (geometry[1] == 0 && geometry[3] == 0) {
    Cells &columns = scratch.columns, &rows = scratch.rows;
    if (scratch.placed != geometry) {  // the classes of one image share its geometry
      place(columns, scratch.centres, size, geometry[0], geometry[2], width);
      place(rows, scratch.centres, size, geometry[4], geometry[5], height);
      scratch.placed = geometry;
    }
    sample_straight(scratch, width, factor, top, size, stored);
    if (columns.all_inside && rows.all_inside)
      inside = nullptr;
    else
      for (int i = 0; i < size; ++i)
        for (int j = 0; j < size; ++j)
          scratch.inside[i * size + j] = (uint8_t)(rows.inside[i] & columns.inside[j]);
  } else {
    sample_affine(scratch, width, height, factor, top, geometry, scratch.centres, size,
                  stored, scratch.inside);
  }
  T* map = (T*)batch.grid + row * 2 * batch.pitch;
  const float t = (float)batch.accepted[row] + 1.0f;
  fuse(map, map + batch.pitch, stored, inside, cells, batch.fusion, t, accept);
}

// Notes which rows of the bank to ask for while this pair is computed.
static inline void look_ahead(const Batch& batch, Scratch& scratch, int64_t next_pair) {
  const int64_t bytes = 2 * batch.pitch * batch.grid_bytes;
  const bool any = next_pair < batch.pairs;
  scratch.ahead = any ? (const char*)batch.grid + batch.row[next_pair] * bytes : nullptr;
  scratch.ahead_lines = any ? (int)((bytes + 63) / 64) : 0;
}

template <typename T>
static int32_t gather_pair(const Batch& batch, const Scratch& scratch, int64_t image, int64_t c,
                           int height, int width) {
  const T* cam = (const T*)batch.cam + image * batch.cam_stride[0] + c * batch.cam_stride[1];
#ifdef OAA_AVX512
  if constexpr (sizeof(T) == 4)
    if (batch.cam_stride[3] == 1)
      return gather_rows(cam, batch.cam_stride[2], height, width, scratch.pitch,
                         scratch.features);
#endif
  return gather(cam, batch.cam_stride[2], batch.cam_stride[3], height, width, scratch.pitch,
                scratch.features);
}

static void update(const Batch& batch, Scratch& scratch) {
  for (int64_t p = 0; p < batch.pairs; ++p) {
    look_ahead(batch, scratch, p + 1);
    const int64_t image = batch.image[p], c = batch.class_[p], row = batch.row[p];
    const int height = (int)batch.cells[2 * image], width = (int)batch.cells[2 * image + 1];
    int32_t peak;
    if (batch.cam_type == CAM_FLOAT32)
      peak = gather_pair<float>(batch, scratch, image, c, height, width);
    else if (batch.cam_type == CAM_FLOAT16)
      peak = gather_pair<_Float16>(batch, scratch, image, c, height, width);
    else
      peak = gather_pair<BFloat16>(batch, scratch, image, c, height, width);
    const bool finite = peak >= 0;
    const bool accept = finite && gate_accepts(batch, image, c);
    const bool lends = batch.fallback && finite && !accept && batch.accepted[row] == 0;
    batch.flags[p] = accept;
    batch.flags[batch.pairs + p] = lends;
    batch.flags[2 * batch.pairs + p] = !finite;
    if (!accept && !lends) continue;
    float largest;
    __builtin_memcpy(&largest, &peak, 4);
    const float* geometry = batch.geometry + 6 * image;
    if (batch.grid_bytes == 1)
      write_pair<uint8_t>(batch, scratch, height, width, largest, geometry, row, accept);
    else if (batch.grid_bytes == 2)
      write_pair<_Float16>(batch, scratch, height, width, largest, geometry, row, accept);
    else
      write_pair<float>(batch, scratch, height, width, largest, geometry, row, accept);
    batch.accepted[row] += accept;
    batch.fallen[row] = !accept;
    batch.dirty[row] = 1;
  }
}
