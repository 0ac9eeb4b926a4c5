/* sentencepiece.cpp - the one C++ file of the text layer. Exceptions stop here. */
#include <exception>
#include <string>
#include <vector>
#include <sentencepiece_processor.h>

extern "C" { /* the headers of core and text are C only */
#include "text/sentencepiece.h"
}

struct flrq_sentencepiece {
    sentencepiece::SentencePieceProcessor processor;
};

flrq_status flrq_sentencepiece_new(flrq_sentencepiece **out, const char *path, const char *model, size_t bytes) {
    *out = nullptr;
    flrq_sentencepiece *made = nullptr;
    try {
        made = new flrq_sentencepiece;
        sentencepiece::util::Status status = made->processor.LoadFromSerializedProto(absl::string_view(model, bytes));
        if (!status.ok()) {
            delete made;
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: not a sentencepiece model: %s", path,
                             status.ToString().c_str());
        }
    } catch (const std::exception &error) {
        delete made;
        return flrq_fail(FLRQ_ERR_MEMORY, "file %s: loading: %s", path, error.what());
    }
    *out = made;
    return FLRQ_OK;
}

void flrq_sentencepiece_free(flrq_sentencepiece *model) {
    delete model;
}

flrq_status flrq_sentencepiece_encode(const flrq_sentencepiece *model, const char *text, size_t bytes, flrq_ids *ids) {
    try {
        std::vector<int> pieces;
        sentencepiece::util::Status status = model->processor.Encode(absl::string_view(text, bytes), &pieces);
        if (!status.ok()) return flrq_fail(FLRQ_ERR_FORMAT, "sentencepiece: %s", status.ToString().c_str());
        return flrq_ids_append(ids, pieces.data(), pieces.size());
    } catch (const std::exception &error) {
        return flrq_fail(FLRQ_ERR_MEMORY, "sentencepiece: encoding %zu bytes: %s", bytes, error.what());
    }
}

int flrq_sentencepiece_size(const flrq_sentencepiece *model) {
    return model->processor.GetPieceSize();
}

int flrq_sentencepiece_find(const flrq_sentencepiece *model, const char *piece) {
    try {
        /* A piece that is not there gets the id of the unknown piece: only the way back tells. */
        int id = model->processor.PieceToId(piece);
        return model->processor.IdToPiece(id) == piece ? id : -1;
    } catch (const std::exception &) {
        return -1;
    }
}
