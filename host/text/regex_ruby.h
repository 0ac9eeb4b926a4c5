/* regex_ruby.h - Oniguruma's Ruby syntax rewritten for PCRE2. */
#ifndef FLRQ_TEXT_REGEX_RUBY_H
#define FLRQ_TEXT_REGEX_RUBY_H

#include "text/buffer.h"

/** Appends to *out a PCRE2 pattern (for UTF, UCP, multi-line, newline LF) that matches what Oniguruma matches with
 *  `pattern` (bytes of well-formed UTF-8). FLRQ_ERR_UNSUPPORTED names a construct that is not translated. */
flrq_status flrq_regex_translate(flrq_bytes *out, const char *where, const char *pattern, size_t bytes);

#endif
