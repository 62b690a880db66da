// The one way in: `KERNELS`, one ENTRY(name) after the other, is defined by who compiles this.

namespace emulator {
struct Entry {
    const char* name;
    std::string kinds;
    void (*run)(void*);
};
}  // namespace emulator

// 0 when the kernel ran; 1 when there is none of this name; 2 when `kinds` are not those of its parameters.
extern "C" int ettin_emulate(const char* name, const char* kinds, void** arguments, const unsigned grid[3], unsigned threads,
                             int reverse) {
#define ENTRY(f) {#f, Kernel<f>::kinds(), Kernel<f>::run},
    static const emulator::Entry entries[] = {KERNELS};
#undef ENTRY
    for (const emulator::Entry& entry : entries) {
        if (std::strcmp(entry.name, name) != 0) continue;
        if (entry.kinds != kinds) {
            std::fprintf(stderr, "emulator: %s takes %s, not %s\n", name, entry.kinds.c_str(), kinds);
            return 2;
        }
        emulator::Call call{arguments};
        emulator::block().run = entry.run;
        emulator::block().call = &call;
        for (unsigned z = 0; z < grid[2]; z++)
            for (unsigned y = 0; y < grid[1]; y++)
                for (unsigned x = 0; x < grid[0]; x++) emulator::run_block({x, y, z}, threads, reverse != 0);
        return 0;
    }
    return 1;
}
