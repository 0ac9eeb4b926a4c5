/* shards.c - the C half of check_safetensors.py: writes a checkpoint whose content follows a formula, and prints what
 * it reads.
 *
 *   shards write DIR      two shards and an index in DIR
 *   shards list PATH      one line per tensor: name, dtype, shape, data in hex
 *   shards copy FROM TO   the tensors of one file written anew
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "io/file.h"
#include "io/safetensors.h"

enum { SHARDS = 2 };
static const struct {
    const char *name;
    flrq_dtype dtype;
    int dims;
    int64_t shape[4];
    int shard;
} content[] = {
    {"model.embed_tokens.weight", FLRQ_BF16, 2, {17, 8}, 0},
    {"model.layers.0.mlp.down_proj.weight_packed", FLRQ_I32, 2, {5, 3}, 0},
    {"model.layers.0.mlp.down_proj.weight_scale", FLRQ_F16, 2, {5, 1}, 0},
    {"model.layers.0.mlp.down_proj.weight_shape", FLRQ_I64, 1, {2}, 0},
    {"model.layers.0.mask", FLRQ_U8, 1, {7}, 0},
    {"model.norm.weight", FLRQ_F32, 1, {3}, 1},
    {"lm_head.weight", FLRQ_F8_E4M3, 2, {3, 5}, 1},
    {"scalar", FLRQ_F64, 0, {0}, 1},
    {"empty", FLRQ_U16, 3, {2, 0, 3}, 1},
    {"t\xc3\xa9nseur \"quoted\" \\", FLRQ_I16, 4, {1, 2, 1, 2}, 1},
};
enum { TENSORS = sizeof content / sizeof *content };

static flrq_status write_shard(const char *dir, int shard, const char *file, uint64_t *total) {
    flrq_status status = FLRQ_OK;
    flrq_shard_writer *writer = NULL;
    int handle[TENSORS];
    uint64_t hash, bytes[TENSORS] = {0};
    char *path = flrq_path_join(dir, file);
    json_t *metadata = json_pack("{s:s}", "made_by", "shards.c");
    FLRQ_GOTO(flrq_shard_create(&writer, path, metadata));
    for (int t = TENSORS - 1; t >= 0; t--)
        if (content[t].shard == shard) {
            FLRQ_GOTO(flrq_shard_declare(writer, content[t].name, content[t].dtype, content[t].dims, content[t].shape,
                                         &handle[t]));
            flrq_tensor_bytes(content[t].dtype, content[t].dims, content[t].shape, &bytes[t]);
            *total += bytes[t];
        }
    FLRQ_GOTO(flrq_shard_begin(writer));
    for (int t = 0; t < TENSORS; t++)
        for (uint64_t i = 0; i < bytes[t]; i++) { /* byte i of tensor t: (13 t + 7 i) mod 256 */
            unsigned char byte = (unsigned char)(13 * t + 7 * (int)i);
            FLRQ_GOTO(flrq_shard_write(writer, handle[t], &byte, i, 1));
        }
    status = flrq_shard_finish(writer, &hash);
    writer = NULL;
out:
    flrq_shard_abort(writer);
    json_decref(metadata);
    free(path);
    return status;
}

static flrq_status write_all(const char *dir) {
    static const char *const files[SHARDS] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    const char *names[TENSORS], *of[TENSORS];
    uint64_t total = 0;
    for (int s = 0; s < SHARDS; s++) FLRQ_TRY(write_shard(dir, s, files[s], &total));
    for (int t = 0; t < TENSORS; t++) names[t] = content[t].name, of[t] = files[content[t].shard];
    char *index = flrq_path_join(dir, "model.safetensors.index.json");
    flrq_status status = flrq_index_write(index, TENSORS, names, of, total);
    free(index);
    return status;
}

static flrq_status list(const char *path) {
    flrq_status status = FLRQ_OK;
    flrq_checkpoint *checkpoint;
    FLRQ_TRY(flrq_checkpoint_open(&checkpoint, path));
    for (int64_t t = 0; t < checkpoint->n_tensors && status == FLRQ_OK; t++) {
        const flrq_tensor *tensor = &checkpoint->tensors[t];
        unsigned char *data = malloc(tensor->bytes + 1);
        status = flrq_checkpoint_read(checkpoint, tensor, data, 0, tensor->bytes);
        printf("%s\t%s\t", tensor->name, flrq_dtype_name(tensor->dtype));
        for (int d = 0; d < tensor->dims; d++) printf("%s%" PRId64, d ? "," : "", tensor->shape[d]);
        printf("\t");
        for (uint64_t i = 0; i < tensor->bytes && status == FLRQ_OK; i++) printf("%02x", data[i]);
        printf("\n");
        free(data);
    }
    flrq_checkpoint_close(checkpoint);
    return status;
}

static flrq_status copy(const char *from, const char *to) {
    flrq_status status = FLRQ_OK;
    flrq_checkpoint *checkpoint;
    flrq_shard_writer *writer = NULL;
    uint64_t hash;
    FLRQ_TRY(flrq_checkpoint_open(&checkpoint, from));
    FLRQ_GOTO(flrq_shard_create(&writer, to, checkpoint->metadata));
    for (int64_t t = 0; t < checkpoint->n_tensors; t++) { /* handles count from 0 */
        const flrq_tensor *tensor = &checkpoint->tensors[t];
        int handle;
        FLRQ_GOTO(flrq_shard_declare(writer, tensor->name, tensor->dtype, tensor->dims, tensor->shape, &handle));
    }
    FLRQ_GOTO(flrq_shard_begin(writer));
    for (int64_t t = 0; t < checkpoint->n_tensors && status == FLRQ_OK; t++) {
        const flrq_tensor *tensor = &checkpoint->tensors[t];
        unsigned char *data = malloc(tensor->bytes + 1);
        status = flrq_checkpoint_read(checkpoint, tensor, data, 0, tensor->bytes);
        if (status == FLRQ_OK) status = flrq_shard_write(writer, (int)t, data, 0, tensor->bytes);
        free(data);
    }
    if (status == FLRQ_OK) {
        status = flrq_shard_finish(writer, &hash);
        writer = NULL;
    }
out:
    flrq_shard_abort(writer);
    flrq_checkpoint_close(checkpoint);
    return status;
}

int main(int argc, char **argv) {
    flrq_status status = FLRQ_ERR_USAGE;
    if (argc == 3 && strcmp(argv[1], "write") == 0)
        status = write_all(argv[2]);
    else if (argc == 3 && strcmp(argv[1], "list") == 0)
        status = list(argv[2]);
    else if (argc == 4 && strcmp(argv[1], "copy") == 0)
        status = copy(argv[2], argv[3]);
    if (status != FLRQ_OK) fprintf(stderr, "shards: %s\n", flrq_last_error());
    return flrq_exit_code(status);
}
