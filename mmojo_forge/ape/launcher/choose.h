/* Which slice to start: the first of this system whose needs are met, or the one that APE_SLICE names. */
#ifndef APE_CHOOSE_H
#define APE_CHOOSE_H

#include "table.h"
#include "text.h"

/* Exit codes as a shell has them: there is nothing to start, or there is and it cannot be started. */
enum { APE_NOTHING = 127, APE_CANNOT = 126 };

static int ape_fits(const struct ape_slice *slice, const u32 have[APE_WORDS]) {
  for (int i = 0; i < APE_WORDS; ++i)
    if (slice->need[i] & ~have[i]) return 0;
  return 1;
}

static void ape_put_names(struct ape_text *why, const struct ape_table *table) {
  ape_put(why, "; this file has:");
  for (u32 i = 0; i < table->count; ++i) {
    ape_put(why, " ");
    ape_put(why, table->slices[i].name);
  }
}

/* The slice, or null with the reason in `why` and the exit code in `code`. */
static const struct ape_slice *ape_choose(const struct ape_table *table, const char *system, const char *wanted,
                                          const u32 have[APE_WORDS], struct ape_text *why, int *code) {
  int here = 0;
  for (u32 i = 0; i < table->count && i < APE_SLICES; ++i) {
    const struct ape_slice *slice = &table->slices[i];
    if (!ape_same(slice->system, system)) continue;
    here = 1;
    if (wanted && *wanted ? ape_same(slice->name, wanted) : ape_fits(slice, have)) return slice;
  }
  *code = here && !(wanted && *wanted) ? APE_CANNOT : APE_NOTHING;
  if (wanted && *wanted) {
    ape_put(why, "no slice named by APE_SLICE=");
    ape_put(why, wanted);
    ape_put(why, " for ");
  } else if (here) {
    ape_put(why, "this CPU is too old for every slice for ");
  } else {
    ape_put(why, "no slice for ");
  }
  ape_put(why, system);
  ape_put_names(why, table);
  return 0;
}

#endif
