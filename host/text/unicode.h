/* unicode.h - UTF-8 and the few character classes that the tokenizers need outside of regular expressions.
 *
 * Texts are checked once, where they enter (flrq_utf8_check); everything behind that decodes without checks.
 */
#ifndef FLRQ_TEXT_UNICODE_H
#define FLRQ_TEXT_UNICODE_H

#include <stdbool.h>
#include "text/buffer.h"

/** Offset of the first byte that is not part of well-formed UTF-8 (no surrogates, no overlong forms, at most U+10FFFF),
 * or `bytes` when all of it is. */
size_t flrq_utf8_check(const char *text, size_t bytes);

/** Bytes of the character that starts with this byte (of well-formed UTF-8). */
static inline size_t flrq_utf8_length(char first) {
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/** Code point at `text`, which must be well-formed; *length: its bytes. */
static inline uint32_t flrq_utf8_get(const char *text, size_t *length) {
    const unsigned char *s = (const unsigned char *)text;
    *length = flrq_utf8_length(*text);
    switch (*length) {
    case 1:
        return s[0];
    case 2:
        return (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    case 3:
        return (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    default:
        return (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
    }
}

/** Start of the character before `at` (at > text). */
static inline const char *flrq_utf8_back(const char *at) {
    do at--;
    while (((unsigned char)*at & 0xc0) == 0x80);
    return at;
}

/** Writes a code point to out[4]; returns its bytes. */
size_t flrq_utf8_put(char out[4], uint32_t code);

/** Appends a code point. */
flrq_status flrq_utf8_append(flrq_bytes *out, uint32_t code);

/** Unicode White_Space. */
bool flrq_is_space(uint32_t code);

/** \w of the reference: alphabetic, marks, decimal digits, connectors, zero-width joiners. */
bool flrq_is_word(uint32_t code);

/** Combining mark (category M), as far as the reference's normalizer knows it. */
bool flrq_is_mark(uint32_t code);

/** GPT-2's printable stand-in for a byte: the byte itself where it is a printing Latin-1 character, else U+0100 and up.
 */
uint32_t flrq_byte_char(unsigned char byte);

/** Appends the stand-ins of every byte of `text`. */
flrq_status flrq_byte_map(flrq_bytes *out, const char *text, size_t bytes);

/** Copies at most 60 bytes of a string from a file into out[64] with control characters replaced and no character cut,
 *  for one-line messages. Returns out. */
const char *flrq_text_quote(char out[64], const char *text);

#endif
