// Products of bfloat16 pairs on AMX tiles, in place of rows_by_panels. A tile register holds 16 rows of 64 bytes; one
// instruction multiplies 16 rows of 16 pairs with 16 pairs of 16 columns into 16 rows of 16 float32 sums. A panel of 32
// columns is two tiles wide.

enum {
	TILE = 16,
	STAGED_PAIRS = 256, // along k, of a block of rows that is transposed first
};

// Tile registers; macros, because the compiler pastes their numbers into instructions.
#define C00 0 // sums: rows 0-15 and 16-31, columns 0-15 and 16-31
#define C01 1
#define C10 2
#define C11 3
#define A_WHOLE 4 // 16 pairs along k
#define B_WHOLE 5
#define A_REST 6 // the k' % 16 pairs that are left
#define B_REST 7

typedef struct {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
} tile_config;

// memory_read has the compiler finish its stores to memory: GCC before 13.3 takes tile intrinsics for reading nothing (of the
// configuration, 8 of its 64 bytes; https://gcc.gnu.org/PR114098) and may drop such stores, or move them behind.
INLINE void memory_read(void) { __asm__ volatile("" : : : "memory"); }

// configure sets the shapes of the tiles for blocks of rows rows (16 and below) and rest pairs at the end of k. It zeroes
// them all.
INLINE void configure(long rows, long rest) {
	tile_config c __attribute__((aligned(64))) = {.palette = 1};
	for (int t = C00; t <= C11; t++) c.rows[t] = rows, c.row_bytes[t] = 64;
	c.rows[A_WHOLE] = rows, c.row_bytes[A_WHOLE] = 64;
	c.rows[B_WHOLE] = TILE, c.row_bytes[B_WHOLE] = 64;
	if (rest) {
		c.rows[A_REST] = rows, c.row_bytes[A_REST] = 4 * rest;
		c.rows[B_REST] = rest, c.row_bytes[B_REST] = 64;
	}
	__asm__ volatile("" : : "r"(&c) : "memory"); // as memory_read; c escapes, or it would not count as memory
	_tile_loadconfig(&c);
}

// block_sums sets sums [2·TILE, NR] to the product of a block of rows and a panel: two tiles of rows, or one.
INLINE void block_sums(const int two, float *sums, long k, const uint32_t *a, long rs, const uint32_t *panel) {
	const long a_stride = 4 * rs, b_stride = 4 * NR, rest = k % TILE;
	memory_read();
	_tile_zero(C00);
	_tile_zero(C01);
	if (two) {
		_tile_zero(C10);
		_tile_zero(C11);
	}
	for (long p = 0; p + TILE <= k; p += TILE, a += TILE, panel += TILE * NR) {
		_tile_loadd(A_WHOLE, a, a_stride);
		_tile_loadd(B_WHOLE, panel, b_stride);
		_tile_dpbf16ps(C00, A_WHOLE, B_WHOLE);
		if (two) {
			_tile_loadd(A_WHOLE, a + TILE * rs, a_stride);
			_tile_dpbf16ps(C10, A_WHOLE, B_WHOLE);
			_tile_loadd(B_WHOLE, panel + TILE, b_stride);
			_tile_dpbf16ps(C11, A_WHOLE, B_WHOLE);
			_tile_loadd(A_WHOLE, a, a_stride);
			_tile_dpbf16ps(C01, A_WHOLE, B_WHOLE);
		} else {
			_tile_loadd(B_WHOLE, panel + TILE, b_stride);
			_tile_dpbf16ps(C01, A_WHOLE, B_WHOLE);
		}
	}
	if (rest) {
		_tile_loadd(A_REST, a, a_stride);
		_tile_loadd(B_REST, panel, b_stride);
		_tile_dpbf16ps(C00, A_REST, B_REST);
		if (two) {
			_tile_loadd(A_REST, a + TILE * rs, a_stride);
			_tile_dpbf16ps(C10, A_REST, B_REST);
			_tile_loadd(B_REST, panel + TILE, b_stride);
			_tile_dpbf16ps(C11, A_REST, B_REST);
			_tile_loadd(A_REST, a, a_stride);
			_tile_dpbf16ps(C01, A_REST, B_REST);
		} else {
			_tile_loadd(B_REST, panel + TILE, b_stride);
			_tile_dpbf16ps(C01, A_REST, B_REST);
		}
	}
	_tile_stored(C00, sums, 4 * NR);
	_tile_stored(C01, sums + TILE, 4 * NR);
	if (two) {
		_tile_stored(C10, sums + TILE * NR, 4 * NR);
		_tile_stored(C11, sums + TILE * NR + TILE, 4 * NR);
	}
}

// transpose_block writes dst[i*ld + p] = src[p*cs + i] for i < 16 and p < 16.
INLINE void transpose_block(uint32_t *dst, long ld, const uint32_t *src, long cs) {
	__m512i r[16], t[16];
#pragma GCC unroll 16
	for (int p = 0; p < 16; p++) r[p] = _mm512_loadu_si512(src + p * cs);
#pragma GCC unroll 8
	for (int p = 0; p < 16; p += 2) {
		t[p] = _mm512_unpacklo_epi32(r[p], r[p + 1]);
		t[p + 1] = _mm512_unpackhi_epi32(r[p], r[p + 1]);
	}
#pragma GCC unroll 4
	for (int p = 0; p < 16; p += 4) {
		r[p] = _mm512_unpacklo_epi64(t[p], t[p + 2]);
		r[p + 1] = _mm512_unpackhi_epi64(t[p], t[p + 2]);
		r[p + 2] = _mm512_unpacklo_epi64(t[p + 1], t[p + 3]);
		r[p + 3] = _mm512_unpackhi_epi64(t[p + 1], t[p + 3]);
	}
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) { // r[4q+i]: columns i, i+4, i+8, i+12 of rows 4q to 4q+3, a quarter each
		const __m512i low01 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), high01 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
		const __m512i low23 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88), high23 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
		_mm512_storeu_si512(dst + i * ld, _mm512_shuffle_i32x4(low01, low23, 0x88));
		_mm512_storeu_si512(dst + (4 + i) * ld, _mm512_shuffle_i32x4(high01, high23, 0x88));
		_mm512_storeu_si512(dst + (8 + i) * ld, _mm512_shuffle_i32x4(low01, low23, 0xdd));
		_mm512_storeu_si512(dst + (12 + i) * ld, _mm512_shuffle_i32x4(high01, high23, 0xdd));
	}
}

// stage lays rows of A that are stored by columns out by rows: dst[i*STAGED_PAIRS + p] = a[i + p*cs].
INLINE void stage(uint32_t *dst, const uint32_t *a, long cs, long rows, long k) {
	for (long i = 0; i < rows; i += TILE)
		for (long p = 0; p < k; p += TILE) {
			if (i + TILE <= rows && p + TILE <= k) {
				transpose_block(dst + i * STAGED_PAIRS + p, STAGED_PAIRS, a + i + p * cs, cs);
				continue;
			}
			for (long q = p; q < k && q < p + TILE; q++)
				for (long j = i; j < rows && j < i + TILE; j++) dst[j * STAGED_PAIRS + q] = a[j + q * cs];
		}
}

// rows_on_tiles is rows_by_panels for pairs; A is stored by rows (cs 1), or by columns (rs 1) and at most STAGED_PAIRS
// along k.
INLINE void rows_on_tiles(const int kind, long m, long k, const uint32_t *a, long rs, long cs, const uint32_t *panels,
	const product_t *o) {
	float sums[2 * TILE * NR] __attribute__((aligned(64)));
	uint32_t staged[2 * TILE * STAGED_PAIRS] __attribute__((aligned(64)));
	long shape = 0; // rows of a tile as configured
	for (long i = 0, rows; i < m; i += rows) {
		rows = m - i >= 2 * TILE ? 2 * TILE : m - i >= TILE ? TILE : m - i;
		const uint32_t *block = a + i * rs;
		long stride = rs;
		if (cs != 1) {
			stage(staged, block, cs, rows, k);
			block = staged;
			stride = STAGED_PAIRS;
		}
		const long want = rows < TILE ? rows : TILE;
		if (want != shape) configure(want, k % TILE);
		shape = want;
		const uint32_t *panel = panels;
		for (long col = 0; col < o->n; col += NR, panel += o->panel ? o->panel : NR * k) {
			for (long r = 0; r < rows; r++) touch(kind, o, i + r, col);
			if (rows > TILE)
				block_sums(1, sums, k, block, stride, panel);
			else
				block_sums(0, sums, k, block, stride, panel);
			if (o->n - col < NR) {
				finish_edge(kind, sums, rows, o, i, col);
				continue;
			}
			finish_rows(kind, sums, rows, o, i, col);
		}
	}
	_tile_release();
}
