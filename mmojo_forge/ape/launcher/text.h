/* Bounded strings. A text that did not fit says so instead of being cut silently. */
#ifndef APE_TEXT_H
#define APE_TEXT_H

#include "table.h"

struct ape_text {
  char *data;
  u64 room; /* bytes, the terminator's among them */
  u64 used;
  int overflow;
};

static void ape_put(struct ape_text *text, const char *s) {
  for (; *s; ++s) {
    if (text->used + 1 >= text->room) {
      text->overflow = 1;
      break;
    }
    text->data[text->used++] = *s;
  }
  text->data[text->used] = 0;
}

static void ape_put_hex(struct ape_text *text, const u8 *bytes, int count) {
  for (int i = 0; i < count; ++i) {
    char two[3] = {"0123456789abcdef"[bytes[i] >> 4], "0123456789abcdef"[bytes[i] & 15], 0};
    ape_put(text, two);
  }
}

static void ape_put_number(struct ape_text *text, u64 n) {
  char digits[21];
  int i = 20;
  digits[i] = 0;
  do {
    digits[--i] = (char)('0' + n % 10);
    n /= 10;
  } while (n);
  ape_put(text, digits + i);
}

static int ape_same(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

#endif
