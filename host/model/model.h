/* model.h - a checkpoint as a model: which tensor plays which role, and the shapes that follow.
 *
 * One table (families.c) maps tensor names to roles for every known family; nothing else knows a tensor name. Opening
 * checks config.json against every tensor's shape and accounts for every tensor of the checkpoint. Options of a config
 * that change the arithmetic are honoured or refused by name, never ignored.
 */
#ifndef FLRQ_MODEL_MODEL_H
#define FLRQ_MODEL_MODEL_H

#include "flrq_backend.h"
#include "io/safetensors.h"
#include "model/feed.h"

/** The linear layers of a block, in the order in which they are quantized. OPT's fc1 is UP, fc2 is DOWN, without GATE.
 */
typedef enum flrq_slot {
    FLRQ_SLOT_Q = 0,
    FLRQ_SLOT_K = 1,
    FLRQ_SLOT_V = 2,
    FLRQ_SLOT_O = 3,
    FLRQ_SLOT_GATE = 4,
    FLRQ_SLOT_UP = 5,
    FLRQ_SLOT_DOWN = 6,
    FLRQ_SLOT_COUNT = 7
} flrq_slot;

/** The distinct inputs of a block's linear layers: Q, K, V share one, GATE and UP share one. */
typedef enum flrq_input {
    FLRQ_INPUT_ATTENTION = 0, /* of Q, K, V: the normalised residual stream */
    FLRQ_INPUT_OUT = 1,       /* of O: attention output */
    FLRQ_INPUT_MLP = 2,       /* of GATE, UP */
    FLRQ_INPUT_DOWN = 3,      /* of DOWN */
    FLRQ_INPUT_COUNT = 4
} flrq_input;

/** A linear layer that can be quantized. For an unknown family slot and input are -1. */
typedef struct flrq_linear {
    char *module;              /* "model.layers.0.self_attn.q_proj" */
    int64_t block;             /* 0-based */
    int slot, input;           /* flrq_slot, flrq_input, or -1 */
    int64_t rows, cols;        /* out features, in features */
    const flrq_tensor *weight; /* NULL in a quantized checkpoint where the layer is packed */
    const flrq_tensor *bias;   /* NULL if none */
    /* quantized checkpoints (formats.md 2.1, 5.1) */
    const flrq_tensor *packed, *scale, *zero;
    const flrq_tensor *lora_a, *lora_b; /* in model->adapter; NULL if none */
    double lora_scaling;                /* alpha_i / r_i of the adapter config; 1 in our own files */
} flrq_linear;

/** Any other tensor, biases of linear layers included, and what becomes of it in an output folder. */
typedef enum flrq_fate { FLRQ_FATE_COPY = 0, FLRQ_FATE_TIED = 1, FLRQ_FATE_DROP = 2 } flrq_fate;
typedef struct flrq_other {
    const flrq_tensor *tensor;
    char *name; /* in an output folder: tensor->name, but with "model." before the names of older OPT files, so that it
                   agrees with flrq_linear.module */
    int64_t block;      /* block it belongs to, or -1 */
    flrq_fate fate;     /* COPY; TIED (duplicate of the embedding, engines ignore it); DROP (named reason) */
    const char *reason; /* static text for TIED and DROP, else NULL */
} flrq_other;

/** Modules of a block that are not linear layers. */
typedef enum flrq_block_param {
    FLRQ_BLOCK_ATTN_NORM = 0,
    FLRQ_BLOCK_MLP_NORM = 1,
    FLRQ_BLOCK_Q_NORM = 2, /* [head_dim], before RoPE (Qwen3) */
    FLRQ_BLOCK_K_NORM = 3,
    FLRQ_BLOCK_PARAM_COUNT = 4
} flrq_block_param;

/** Modules outside the blocks. */
typedef enum flrq_global_param {
    FLRQ_PARAM_EMBEDDING = 0,
    FLRQ_PARAM_POSITIONS = 1,  /* learned positions (OPT) */
    FLRQ_PARAM_PROJECT_IN = 2, /* embed_dim to hidden and back (OPT-350m) */
    FLRQ_PARAM_PROJECT_OUT = 3,
    FLRQ_PARAM_FINAL_NORM = 4,
    FLRQ_PARAM_HEAD = 5, /* without weight when tied */
    FLRQ_PARAM_COUNT = 6
} flrq_global_param;

/** The tensors of such a module; NULL where the model has none. */
typedef struct flrq_param {
    const flrq_tensor *weight, *bias;
} flrq_param;

typedef struct flrq_family flrq_family; /* families.c */

typedef struct flrq_model {
    char *dir;
    flrq_checkpoint *checkpoint;
    flrq_checkpoint *adapter;  /* lowrank/ of a quantized folder, or NULL */
    json_t *config;            /* config.json as read */
    const flrq_family *family; /* NULL when unknown and allowed */
    const char *family_name;   /* "llama", or the unknown model_type */
    int quantized;             /* 1: config has a quantization_config that this program reads */
    flrq_scheme scheme;        /* of a quantized folder */
    flrq_dtype dtype;          /* of the linear weights (source) or scales (quantized) */

    int64_t hidden, ffn, layers, heads, kv_heads, head_dim, vocab, max_positions;
    int64_t embed_dim;   /* width of the embedding: hidden but for OPT-350m */
    int post_norm;       /* norms come after the residual sum, and there is no final norm (OPT-350m) */
    int final_norm;      /* a norm before the head */
    uint32_t bias_slots; /* bit s: linear layers of slot s have a bias */
    float norm_eps;
    int tied;        /* head is the embedding */
    int bos_id;      /* -1 if unknown */
    float *inv_freq; /* [head_dim/2] with RoPE scaling applied; NULL for learned positions */
    float rope_magnitude;
    int64_t *window; /* [layers] sliding window, 0 = none */

    int64_t n_linears;
    flrq_linear *linears;     /* sorted by block, then slot (or name) */
    int64_t *block_first;     /* [layers + 1]: linears of block i are block_first[i] .. block_first[i+1]-1 */
    flrq_param *block_params; /* [layers, FLRQ_BLOCK_PARAM_COUNT]; NULL for an unknown family */
    flrq_param params[FLRQ_PARAM_COUNT];
    int64_t n_others;
    flrq_other *others; /* sorted by block (-1 first), then name */
} flrq_model;

enum {
    FLRQ_MODEL_ALLOW_UNKNOWN = 1, /* weight-only: an unknown family gives linears by pattern (2-D float *.weight of a
                                     numbered layer, no embedding, norm, router, head) */
    FLRQ_MODEL_NO_ADAPTER = 2     /* ignore lowrank/ */
};

/** Opens a source or quantized folder. Errors name config key, tensor, both shapes. An unknown family without
 * ALLOW_UNKNOWN is refused with the list of known ones. */
flrq_status flrq_model_open(flrq_model **out, const char *dir, int flags);
void flrq_model_close(flrq_model *model);

/** Comma-separated list of known families (static). */
const char *flrq_families_known(void);

/** Tokens that the observer sees of an MLP input at once, that go through the projections of the embedding at once, and
 * the unit of the token batch. */
enum { FLRQ_TOKEN_TILE = 512 };

/* ---- weights in backend memory ----------------------------------------------------------------------------------- */

/** The weights of one block in backend memory, reused for every block (allocated once for the largest). */
typedef struct flrq_block {
    int64_t index;  /* block held, -1 if none */
    int rank, size; /* of dense linear weights only the rows of flrq_share_rows(rows, rank, size) are read;
                       flrq_block_new(): all */
    flrq_operand linear[FLRQ_SLOT_COUNT]; /* rows == 0: the family has no such layer */
    const float *d_bias[FLRQ_SLOT_COUNT]; /* fp32 [rows] or NULL */
    const float *d_attn_norm, *d_attn_norm_bias, *d_mlp_norm, *d_mlp_norm_bias; /* fp32 [hidden] */
    const float *d_q_norm, *d_k_norm;                                           /* fp32 [head_dim] or NULL */
    flrq_codes codes[FLRQ_SLOT_COUNT]; /* backing of linear[].codes for quantized folders */
    const float *d_inv_freq;           /* model->inv_freq, or NULL */
    void *d_memory;                    /* the arena */
    size_t memory_bytes;
    int32_t *d_words; /* start of the arena in quantized folders: packed words on their way to codes, staging_bytes */
    flrq_feed feed;   /* in the order of the ops, for flrq_block_load() */
    size_t staging_bytes; /* of its one slot */
} flrq_block;

/** Bytes that flrq_block_new() allocates for this model: the arena of the largest block and the host staging (4 MiB,
 * more only for very wide layers). 0 for an unknown family, whose blocks have no slots. */
size_t flrq_block_bytes(const flrq_model *model);
/** The host staging among them. */
size_t flrq_block_host_bytes(const flrq_model *model);
/** FLRQ_ERR_UNSUPPORTED for an unknown family. */
flrq_status flrq_block_new(flrq_block **out, const flrq_model *model, flrq_backend *be);
/** Reads block `index`: dense weights in their source dtype, or unpacked codes, scales and factors of a quantized
 * folder. Ops issued afterwards see it. */
flrq_status flrq_block_load(flrq_block *block, const flrq_model *model, int64_t index);
/** The same through another feed, which may be one on a lane, used by another thread than the one that issues ops
 * (dense weights only: unpacking is an op). Returns when all has arrived. */
flrq_status flrq_block_load_through(flrq_block *block, const flrq_model *model, flrq_feed *feed, int64_t index);
void flrq_block_free(flrq_block *block, flrq_backend *be);

/** Reads one packed layer of a quantized checkpoint (linear->packed, scale, zero, lora_a, lora_b) into arrays of the
 * caller: codes (its arrays sized for the shape, its fields filled in), d_l [rows, rank], d_r [rank, cols]; *rank 0
 * without factors. Allocates its own staging. */
flrq_status flrq_linear_load_packed(const flrq_model *model, flrq_backend *be, const flrq_linear *linear,
                                    flrq_codes *codes, float *d_l, float *d_r, int64_t *rank);

/** The same through a feed without a lane; d_words: backend memory. A slot and d_words hold flrq_packed_slot_bytes().
 */
flrq_status flrq_linear_load_packed_through(const flrq_model *model, flrq_feed *feed, void *d_words,
                                            const flrq_linear *linear, flrq_codes *codes, float *d_l, float *d_r,
                                            int64_t *rank);
size_t flrq_packed_slot_bytes(const flrq_model *model);

/** Embedding (loaded for embedding), or final norm and head (loaded for logits); never both unless tied. */
typedef struct flrq_globals {
    flrq_operand embedding, positions, head; /* positions: OPT's learned table, rows 0 otherwise */
    flrq_operand project_in, project_out;    /* rows 0 when embed_dim is hidden */
    const float *d_norm, *d_norm_bias;       /* final norm, or NULL */
    float *d_tile;                           /* [FLRQ_TOKEN_TILE, embed_dim] when there are projections */
    int32_t *position_rows;                  /* host: [max_positions] row of each position in `positions`, or NULL */
    void *d_memory;
} flrq_globals;
typedef enum flrq_globals_part { FLRQ_GLOBALS_EMBED = 1, FLRQ_GLOBALS_HEAD = 2 } flrq_globals_part;
/** Backend memory that flrq_globals_load() takes for these parts. */
size_t flrq_globals_bytes(const flrq_model *model, int parts);
flrq_status flrq_globals_load(flrq_globals **out, const flrq_model *model, flrq_backend *be, int parts);
void flrq_globals_free(flrq_globals *globals, flrq_backend *be);

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/** Sees an input of linear layers: d_x [tokens, cols] fp32, valid during the call. */
typedef flrq_status (*flrq_observer_fn)(void *user, flrq_input input, const float *d_x, int64_t tokens, int64_t cols);

/** Scratch of the block forward for sequences of up to `tokens` tokens. The MLP runs `batch` tokens at a time (a
 * multiple of FLRQ_TOKEN_TILE, or at least `tokens`), so that the [batch, ffn] buffers stay small. */
size_t flrq_workspace_bytes(const flrq_model *model, int64_t tokens, int64_t batch);

/** One block on one sequence: d_x [tokens, hidden] fp32 in place, positions 0 .. tokens-1. observer may be NULL; inputs
 * of the MLP are shown to it by FLRQ_TOKEN_TILE tokens whatever the batch. */
flrq_status flrq_forward_block(const flrq_model *model, flrq_backend *be, const flrq_block *block, float *d_x,
                               int64_t tokens, int64_t batch, void *d_workspace, flrq_observer_fn observer, void *user);

/** d_x [tokens, hidden] = embedding (+ learned positions) of ids (host, checked against vocab by the caller). More
 * tokens than learned positions: FLRQ_ERR_SHAPE. */
flrq_status flrq_forward_embed(const flrq_model *model, flrq_backend *be, const flrq_globals *globals, float *d_x,
                               const int32_t *ids, int64_t tokens);

/** Final norm and head: d_logits [tokens, vocab] from d_x [tokens, hidden] (overwritten by the norm). */
flrq_status flrq_forward_head(const flrq_model *model, flrq_backend *be, const flrq_globals *globals, float *d_logits,
                              float *d_x, int64_t tokens);

#endif
