/* unicode.c - UTF-8 and character classes; see unicode.h. Categories are utf8proc's. */
#include "text/unicode.h"

#include <string.h>
#include <utf8proc.h>
#include "text/unicode_later.h"

size_t flrq_utf8_check(const char *text, size_t bytes) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        uint64_t eight;
        if (bytes - i >= sizeof eight) { /* most of most texts is ASCII */
            memcpy(&eight, s + i, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof eight;
                continue;
            }
        }
        unsigned char c = s[i], low = 0x80, high = 0xbf; /* bounds of the second byte */
        size_t length;
        if (c < 0x80) {
            i++;
            continue;
        }
        if (c >= 0xc2 && c <= 0xdf)
            length = 2;
        else if (c >= 0xe0 && c <= 0xef)
            length = 3;
        else if (c >= 0xf0 && c <= 0xf4)
            length = 4;
        else
            return i;
        if (c == 0xe0) low = 0xa0;
        if (c == 0xed) high = 0x9f;
        if (c == 0xf0) low = 0x90;
        if (c == 0xf4) high = 0x8f;
        if (length > bytes - i || s[i + 1] < low || s[i + 1] > high) return i;
        for (size_t k = 2; k < length; k++)
            if ((s[i + k] & 0xc0) != 0x80) return i;
        i += length;
    }
    return bytes;
}

size_t flrq_utf8_put(char out[4], uint32_t code) {
    unsigned char *s = (unsigned char *)out;
    if (code < 0x80) {
        s[0] = (unsigned char)code;
        return 1;
    }
    if (code < 0x800) {
        s[0] = (unsigned char)(0xc0 | code >> 6);
        s[1] = (unsigned char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        s[0] = (unsigned char)(0xe0 | code >> 12);
        s[1] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        s[2] = (unsigned char)(0x80 | (code & 0x3f));
        return 3;
    }
    s[0] = (unsigned char)(0xf0 | code >> 18);
    s[1] = (unsigned char)(0x80 | (code >> 12 & 0x3f));
    s[2] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
    s[3] = (unsigned char)(0x80 | (code & 0x3f));
    return 4;
}

flrq_status flrq_utf8_append(flrq_bytes *out, uint32_t code) {
    FLRQ_TRY(flrq_bytes_reserve(out, 4));
    out->count += flrq_utf8_put(out->data + out->count, code);
    return FLRQ_OK;
}

bool flrq_is_space(uint32_t code) {
    return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
           code == 0x3000;
}

bool flrq_is_mark(uint32_t code) {
    if (code == 0x1cf2 || code == 0x1cf3)
        return true; /* letters since Unicode 12, which the normalizer does not know */
    return utf8proc_category_string((utf8proc_int32_t)code)[0] == 'M' && !flrq_is_unknown_form(code);
}

bool flrq_is_word(uint32_t code) {
    const char *category = utf8proc_category_string((utf8proc_int32_t)code);
    if (strcmp(category, "Cn") == 0) category = flrq_later_category(code);
    if (category[0] == 'L' || category[0] == 'M' || strcmp(category, "Nd") == 0 || strcmp(category, "Nl") == 0 ||
        strcmp(category, "Pc") == 0)
        return true;
    /* The alphabetic symbols (circled and squared letters) and the joiners. */
    return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189) || code == 0x200c ||
           code == 0x200d;
}

uint32_t flrq_byte_char(unsigned char byte) {
    if (byte <= 0x20) return 0x100u + byte;                /* 33 bytes: U+0100 .. U+0120 */
    if (byte >= 0x7f && byte <= 0xa0) return 0xa2u + byte; /* 34 bytes: U+0121 .. U+0142 */
    if (byte == 0xad) return 0x143;
    return byte;
}

flrq_status flrq_byte_map(flrq_bytes *out, const char *text, size_t bytes) {
    if (bytes > PTRDIFF_MAX / 2) return flrq_fail_memory(SIZE_MAX, "text");
    FLRQ_TRY(flrq_bytes_reserve(out, 2 * bytes)); /* every stand-in is below U+0800 */
    char *to = out->data + out->count;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte > 0x20 && byte < 0x7f)
            *to++ = (char)byte;
        else
            to += flrq_utf8_put(to, flrq_byte_char(byte));
    }
    out->count = (size_t)(to - out->data);
    return FLRQ_OK;
}

const char *flrq_text_quote(char out[64], const char *text) {
    size_t count = strnlen(text, 64);
    if (count > 60) {
        count = 57;
        while (count > 0 && ((unsigned char)text[count] & 0xc0) == 0x80) count--;
        memcpy(out + count, "...", 4);
    } else {
        out[count] = 0;
    }
    for (size_t i = 0; i < count; i++) out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
    return out;
}
