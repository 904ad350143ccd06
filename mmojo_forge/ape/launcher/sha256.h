/* SHA-256 (FIPS 180-4), streaming. */
#ifndef APE_SHA256_H
#define APE_SHA256_H

#include "table.h"

struct ape_sha256 {
  u32 state[8];
  u64 length;
  u8 block[64];
};

static const u32 ape_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static u32 ape_ror(u32 x, int n) { return x >> n | x << (32 - n); }

static void ape_sha256_start(struct ape_sha256 *h) {
  static const u32 start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (int i = 0; i < 8; ++i) h->state[i] = start[i];
  h->length = 0;
}

static void ape_sha256_block(struct ape_sha256 *h, const u8 *p) {
  u32 w[64], s[8];
  for (int i = 0; i < 16; ++i, p += 4) w[i] = (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
  for (int i = 16; i < 64; ++i) {
    u32 a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (ape_ror(a, 7) ^ ape_ror(a, 18) ^ a >> 3) + w[i - 7] +
           (ape_ror(b, 17) ^ ape_ror(b, 19) ^ b >> 10);
  }
  for (int i = 0; i < 8; ++i) s[i] = h->state[i];
  for (int i = 0; i < 64; ++i) {
    u32 one = s[7] + (ape_ror(s[4], 6) ^ ape_ror(s[4], 11) ^ ape_ror(s[4], 25)) +
              ((s[4] & s[5]) ^ (~s[4] & s[6])) + ape_k[i] + w[i];
    u32 two = (ape_ror(s[0], 2) ^ ape_ror(s[0], 13) ^ ape_ror(s[0], 22)) +
              ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    for (int j = 7; j > 0; --j) s[j] = s[j - 1];
    s[4] += one;
    s[0] = one + two;
  }
  for (int i = 0; i < 8; ++i) h->state[i] += s[i];
}

static void ape_sha256_add(struct ape_sha256 *h, const u8 *data, u64 size) {
  while (size) {
    u64 used = h->length % 64;
    if (!used && size >= 64) {
      ape_sha256_block(h, data);
      data += 64, size -= 64, h->length += 64;
      continue;
    }
    h->block[used] = *data++;
    --size, ++h->length;
    if (used == 63) ape_sha256_block(h, h->block);
  }
}

static int ape_sha256_is(struct ape_sha256 *h, const u8 expected[32]) {
  u64 bits = h->length * 8;
  u8 pad = 0x80, zero = 0, tail[8];
  ape_sha256_add(h, &pad, 1);
  while (h->length % 64 != 56) ape_sha256_add(h, &zero, 1);
  for (int i = 0; i < 8; ++i) tail[i] = (u8)(bits >> (56 - 8 * i));
  ape_sha256_add(h, tail, 8);
  for (int i = 0; i < 32; ++i)
    if ((u8)(h->state[i / 4] >> (24 - 8 * (i % 4))) != expected[i]) return 0;
  return 1;
}

#endif
