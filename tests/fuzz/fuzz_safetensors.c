/* fuzz_safetensors.c - the safetensors header parser.
 *
 * Input: 4 bytes, the size of the data part (little endian), then the header. What is accepted must keep the parser's
 * promises: the tensors tile the data part, sizes agree with dtype and shape, names are unique.
 */
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(int condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    flrq_tensor *tensors = NULL;
    int64_t n = 0;
    json_t *metadata = NULL;
    if (bytes < 4) return 0;
    uint64_t data_bytes = data[0] | (uint64_t)data[1] << 8 | (uint64_t)data[2] << 16 | (uint64_t)data[3] << 24;
    const char *header = (const char *)data + 4;
    size_t header_bytes = bytes - 4;
    if (flrq_safetensors_parse("fuzz", header, header_bytes, data_bytes, 1, &tensors, &n, &metadata) != FLRQ_OK) {
        require(n == 0 && !metadata && flrq_last_error()[0] && !strpbrk(flrq_last_error(), "\n\r\x1b"));
    } else {
        uint64_t end = 8 + header_bytes;
        for (int64_t i = 0; i < n; i++) {
            uint64_t wanted;
            require(tensors[i].offset == end && tensors[i].file == 1);
            require(flrq_tensor_bytes(tensors[i].dtype, tensors[i].dims, tensors[i].shape, &wanted));
            require(tensors[i].bytes == wanted && flrq_tensor_count(&tensors[i]) >= 0);
            end += tensors[i].bytes;
            for (int64_t k = 0; k < i && k < 64; k++) require(strcmp(tensors[i].name, tensors[k].name) != 0);
        }
        require(end == 8 + header_bytes + data_bytes);
        require(!metadata || json_is_object(metadata));
    }
    for (int64_t i = 0; i < n; i++) free(tensors[i].name);
    free(tensors);
    json_decref(metadata);
    return 0;
}
