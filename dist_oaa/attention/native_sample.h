// From the features of one pair to its attention at the cells of the map, for one instruction set:
// native.cpp includes this file once for each.
//
// It follows attention/reference.py operation by operation in float32 (no contraction to FMA), so
// that the maps are the same to the last bit. What makes it fast:
//   - the maximum of the features is taken over their bits as integers, which also finds NaN and
//     infinities and needs no ordering of NaN;
//   - without rotation or shear, x depends on the column and y on the row only: each feature row
//     is interpolated once along x, each map row then blends two of them;
//   - the next pair's rows of the bank are fetched while this pair is computed.
// Only fundamental types and builtins here: a library template instantiated under one instruction
// set could be picked by the linker for all.

static inline float as_float(float value) { return value; }
static inline float as_float(_Float16 value) { return (float)value; }
static inline float as_float(BFloat16 value) {
  uint32_t bits = (uint32_t)value.bits << 16;
  float result;
  __builtin_memcpy(&result, &bits, 4);
  return result;
}

static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline int smaller(int a, int b) { return a < b ? a : b; }

// Copies the valid features to rows of `pitch` floats. Returns the bits of the largest one, 0 when
// none is above zero, and -1 when one is NaN or infinite.
template <typename T>
static int32_t gather(const T* source, int64_t stride_h, int64_t stride_w, int height, int width,
                      int pitch, float* features) {
  int32_t peak = 0, magnitude = 0;
  for (int i = 0; i < height; ++i) {
    const T* from = source + i * stride_h;
    float* row = features + (int64_t)i * pitch;
    for (int j = 0; j < width; ++j) row[j] = as_float(from[j * stride_w]);
    for (int j = 0; j < width; ++j) {
      int32_t bits;
      __builtin_memcpy(&bits, row + j, 4);
      peak = bits > peak ? bits : peak;
      const int32_t absolute = bits & 0x7fffffff;
      magnitude = absolute > magnitude ? absolute : magnitude;
    }
  }
  return magnitude >= INFINITY_BITS ? -1 : peak;
}

#ifdef OAA_AVX512
static inline __mmask16 below(int count) {  // lanes below a count, for the end of a row
  return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
}

// The same for consecutive floats.
static int32_t gather_rows(const float* source, int64_t stride_h, int height, int width,
                           int pitch, float* features) {
  __m512i peak = _mm512_setzero_si512(), magnitude = peak;
  for (int i = 0; i < height; ++i) {
    const float* from = source + i * stride_h;
    float* row = features + (int64_t)i * pitch;
    for (int j = 0; j < width; j += 16) {
      const __m512i bits = _mm512_maskz_loadu_epi32(below(width - j), from + j);
      _mm512_storeu_si512(row + j, bits);
      peak = _mm512_max_epi32(peak, bits);
      magnitude = _mm512_max_epi32(
          magnitude, _mm512_and_epi32(bits, _mm512_set1_epi32(0x7fffffff)));
    }
  }
  if (_mm512_reduce_max_epi32(magnitude) >= INFINITY_BITS) return -1;
  return _mm512_reduce_max_epi32(peak);
}
#endif

static void place(Cells& cells, const float* centres, int size, float slope, float offset,
                  int length) {
  const float last = (float)(length - 1);
  const int padded = (size + 15) / 16 * 16;  // whole vectors; `centres` goes that far
  for (int j = 0; j < padded; ++j) {
    const float x = slope * centres[j] + offset;
    float position = x * (float)length - 0.5f;
    position = position > 0 ? smaller(position, last) : 0.0f;  // NaN counts as 0
    const int near = (int)position;
    cells.near[j] = near;
    cells.far[j] = smaller(near + 1, length - 1);
    cells.weight[j] = position - (float)near;
    cells.inside[j] = (int)(x >= 0) & (int)(x <= 1);
  }
  int all = 1;
  for (int j = 0; j < size; ++j) all &= cells.inside[j];
  cells.all_inside = all;
}

static inline float scaled(float feature, float factor, float top) {
  float positive = feature > 0 ? feature : 0.0f;
  return smaller(positive * factor, top);
}

// One feature row, scaled and interpolated at the map's columns.
static void along_row(const float* row, float factor, float top, const Cells& columns, int size,
                      float* out) {
  for (int j = 0; j < size; ++j) {
    const float a = scaled(row[columns.near[j]], factor, top);
    const float b = scaled(row[columns.far[j]], factor, top);
    const float weight = columns.weight[j];
    out[j] = a * (1 - weight) + b * weight;
  }
}

#ifdef OAA_AVX512
// The first of the features that 16 neighbouring columns read, or -1 where they span more than
// the two registers in which a permutation can look values up.
static int window(const Cells& columns, int j) {
  const __m512i near = _mm512_loadu_si512(columns.near + j);
  const __m512i far = _mm512_loadu_si512(columns.far + j);
  const int first = _mm512_reduce_min_epi32(near), last = _mm512_reduce_max_epi32(far);
  return last - first < 32 ? first : -1;
}

// Several feature rows at once, 16 columns after 16: what depends on the column is loaded once.
static bool along_rows(const Scratch& scratch, int first, int last, int width, float factor,
                       float top, int size) {
  for (int j = 0; j < size; j += 16)
    if (window(scratch.columns, j) < 0) return false;
  for (int i = first; i <= last; ++i) {
    float* row = scratch.features + (int64_t)i * scratch.pitch;
    for (int j = 0; j < width; j += 16) {
      const __m512 positive = _mm512_max_ps(_mm512_loadu_ps(row + j), _mm512_setzero_ps());
      const __m512 value = _mm512_mul_ps(positive, _mm512_set1_ps(factor));
      _mm512_storeu_ps(row + j, _mm512_min_ps(value, _mm512_set1_ps(top)));
    }
  }
  for (int j = 0; j < size; j += 16) {
    const int from = window(scratch.columns, j);
    const __m512i base = _mm512_set1_epi32(from);
    const __m512i near = _mm512_sub_epi32(_mm512_loadu_si512(scratch.columns.near + j), base);
    const __m512i far = _mm512_sub_epi32(_mm512_loadu_si512(scratch.columns.far + j), base);
    const __m512 weight = _mm512_loadu_ps(scratch.columns.weight + j);
    const __m512 rest = _mm512_sub_ps(_mm512_set1_ps(1.0f), weight);
    for (int i = first; i <= last; ++i) {
      const float* row = scratch.features + (int64_t)i * scratch.pitch + from;
      const __m512 low = _mm512_loadu_ps(row), high = _mm512_loadu_ps(row + 16);
      const __m512 a = _mm512_permutex2var_ps(low, near, high);
      const __m512 b = _mm512_permutex2var_ps(low, far, high);
      _mm512_storeu_ps(scratch.lines + (int64_t)i * scratch.line_pitch + j,
                       _mm512_add_ps(_mm512_mul_ps(a, rest), _mm512_mul_ps(b, weight)));
    }
  }
  return true;
}
#else
static bool along_rows(const Scratch&, int, int, int, float, float, int) { return false; }
#endif

static inline void store(uint8_t* at, float value) { *at = (uint8_t)(int)__builtin_rintf(value); }
static inline void store(_Float16* at, float value) { *at = (_Float16)value; }
static inline void store(float* at, float value) { *at = value; }

// One row of the map: two interpolated feature rows, blended and stored. May write up to a vector
// beyond its end, which the next row overwrites.
template <typename T>
static void blend(const float* upper, const float* lower, float weight, int size, T* out) {
  const float rest = 1 - weight;
  for (int j = 0; j < size; ++j) store(out + j, upper[j] * rest + lower[j] * weight);
}
#ifdef OAA_AVX512
static void blend(const float* upper, const float* lower, float weight, int size, uint8_t* out) {
  const __m512 w = _mm512_set1_ps(weight), rest = _mm512_set1_ps(1 - weight);
  for (int j = 0; j < size; j += 16) {
    const __m512 value = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(upper + j), rest),
                                       _mm512_mul_ps(_mm512_loadu_ps(lower + j), w));
    _mm_storeu_si128((__m128i*)(out + j), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)));
  }
}
#endif

// A at the map's cells, in the stored format, when x follows the columns and y the rows.
template <typename T>
static void sample_straight(const Scratch& scratch, int width, float factor, float top, int size,
                            T* stored) {
  const Cells &columns = scratch.columns, &rows = scratch.rows;
  // Places run along the axis or against it: its ends tell which feature rows are needed.
  const int first = smaller(rows.near[0], rows.near[size - 1]);
  const int last = rows.far[0] > rows.far[size - 1] ? rows.far[0] : rows.far[size - 1];
  if (!along_rows(scratch, first, last, width, factor, top, size))
    for (int i = first; i <= last; ++i)
      along_row(scratch.features + (int64_t)i * scratch.pitch, factor, top, columns, size,
                scratch.lines + (int64_t)i * scratch.line_pitch);
  const int share = (scratch.ahead_lines + size - 1) / size;
  for (int i = 0; i < size; ++i) {
    // The next pair's memory is asked for little by little: a burst would fill the processor's
    // few slots for outstanding loads and stall this pair's own.
    const int end = smaller((i + 1) * share, scratch.ahead_lines);
    for (int k = i * share; k < end; ++k)
      __builtin_prefetch(scratch.ahead + 64 * (int64_t)k, 0, 2);
    blend(scratch.lines + (int64_t)rows.near[i] * scratch.line_pitch,
          scratch.lines + (int64_t)rows.far[i] * scratch.line_pitch, rows.weight[i], size,
          stored + (int64_t)i * size);
  }
}

// The same for any affine map.
template <typename T>
static void sample_affine(const Scratch& scratch, int width, int height, float factor,
                          float top, const float* geometry, const float* centres, int size,
                          T* stored, uint8_t* inside) {
  const float last_column = (float)(width - 1), last_row = (float)(height - 1);
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j) {
      float x = geometry[0] * centres[j] + geometry[1] * centres[i] + geometry[2];
      float y = geometry[3] * centres[j] + geometry[4] * centres[i] + geometry[5];
      float column = x * (float)width - 0.5f, row = y * (float)height - 0.5f;
      column = column > 0 ? smaller(column, last_column) : 0.0f;
      row = row > 0 ? smaller(row, last_row) : 0.0f;
      int left = (int)column, above = (int)row;
      int right = smaller(left + 1, width - 1), below = smaller(above + 1, height - 1);
      float wx = column - (float)left, wy = row - (float)above;
      const float* upper = scratch.features + (int64_t)above * scratch.pitch;
      const float* lower = scratch.features + (int64_t)below * scratch.pitch;
      float at_upper = scaled(upper[left], factor, top) * (1 - wx) +
                       scaled(upper[right], factor, top) * wx;
      float at_lower = scaled(lower[left], factor, top) * (1 - wx) +
                       scaled(lower[right], factor, top) * wx;
      store(stored + i * size + j, at_upper * (1 - wy) + at_lower * wy);
      inside[i * size + j] = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1);
    }
}
