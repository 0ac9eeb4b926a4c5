/* nvToolsExt.h - NVTX ranges: accepted and dropped, the simulator has no profiler. */
#ifndef CUDASIM_NVTX_H
#define CUDASIM_NVTX_H

static inline int nvtxRangePushA(const char *message) {
    (void)message;
    return 0;
}
static inline int nvtxRangePop(void) {
    return 0;
}
static inline void nvtxMarkA(const char *message) {
    (void)message;
}
#define nvtxRangePush nvtxRangePushA
#define nvtxMark      nvtxMarkA

#endif
