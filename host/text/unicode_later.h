/* unicode_later.h - where the Unicode data of the reference are older or newer than those of the libraries used here.
 *
 * The reference's patterns know Unicode 16, its normalizer Unicode 9; PCRE2 10.42 knows 14, utf8proc 2.8 knows 15, and
 * both differ from machine to machine. Code points that exist for only one of two sides would get other ids. Members of
 * categories are added to what PCRE2 has, so a newer PCRE2 changes nothing; forms are taken away from what utf8proc
 * has, so a newer utf8proc changes nothing.
 */
#ifndef FLRQ_TEXT_UNICODE_LATER_H
#define FLRQ_TEXT_UNICODE_LATER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** The code points of Unicode 15 to 16 in the categories that start with the first `letters` letters of `category`
 * ("L", "Nd"), one range per call; false behind the last. *next: 0 before the first call. */
bool flrq_later_range(const char *category, size_t letters, int *next, uint32_t *first, uint32_t *last);

/** Category of a code point of Unicode 15 to 16 ("Lo"), "" for all others. */
const char *flrq_later_category(uint32_t code);

/** True for code points that the reference's normalizer does not know and leaves alone, but a newer one would not. */
bool flrq_is_unknown_form(uint32_t code);

/** Lower case of capital letters since Unicode 16, `code` itself for all others. */
uint32_t flrq_later_lower(uint32_t code);

#endif
