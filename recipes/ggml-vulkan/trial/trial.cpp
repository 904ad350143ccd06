// module-trial MODULE: loads a backend as a server does, multiplies matrices of several types on its first device and
// on the CPU, and compares. Prints a line for each; exit code 1 if one differs, 2 if nothing could be tried.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

struct product {
    ggml_type type;
    int64_t   depth, rows, columns;
};

// The same numbers each time, between -1 and 1.
static std::vector<float> make_numbers(int64_t count, uint32_t seed) {
    std::vector<float> numbers(count);
    for (float & number : numbers) {
        seed   = seed * 1664525u + 1013904223u;
        number = float(seed >> 8) / float(1 << 23) - 1.0f;
    }
    return numbers;
}

static std::vector<uint8_t> in_type(ggml_type type, const std::vector<float> & numbers, int64_t depth, int64_t rows) {
    std::vector<uint8_t> bytes(ggml_row_size(type, depth) * rows);
    ggml_quantize_chunk(type, numbers.data(), bytes.data(), 0, rows, depth, nullptr);
    return bytes;
}

static std::vector<float> multiply(ggml_backend_t backend, const product & p) {
    ggml_init_params parameters = { ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true };
    std::unique_ptr<ggml_context, decltype(&ggml_free)> context(ggml_init(parameters), ggml_free);
    ggml_tensor * a = ggml_new_tensor_2d(context.get(), p.type, p.depth, p.rows);
    ggml_tensor * b = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, p.depth, p.columns);
    ggml_tensor * c = ggml_mul_mat(context.get(), a, b);
    ggml_cgraph * graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, c);
    std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> buffer(
        ggml_backend_alloc_ctx_tensors(context.get(), backend), ggml_backend_buffer_free);

    const std::vector<uint8_t> left  = in_type(p.type, make_numbers(p.depth * p.rows, 1), p.depth, p.rows);
    const std::vector<float>   right = make_numbers(p.depth * p.columns, 2);
    ggml_backend_tensor_set(a, left.data(), 0, left.size());
    ggml_backend_tensor_set(b, right.data(), 0, right.size() * sizeof(float));
    std::vector<float> result(p.rows * p.columns);
    if (!ggml_backend_supports_op(backend, c) || ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        return {};
    }
    ggml_backend_tensor_get(c, result.data(), 0, result.size() * sizeof(float));
    return result;
}

// The error in proportion to the result, both squared.
static double error_of(const std::vector<float> & result, const std::vector<float> & expected) {
    double error = 0, size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        error += std::pow(double(result[i]) - expected[i], 2);
        size += std::pow(double(expected[i]), 2);
    }
    return error / size;
}

static bool agree(ggml_backend_t device, ggml_backend_t cpu, const product & p) {
    const std::vector<float> result = multiply(device, p);
    const double             error  = result.empty() ? NAN : error_of(result, multiply(cpu, p));
    const bool               good   = error < 5e-4;
    std::printf("%s\t%s\t%lld x %lld x %lld\t%.2g\n", good ? "agrees" : "differs", ggml_type_name(p.type),
                (long long) p.rows, (long long) p.depth, (long long) p.columns, error);
    return good;
}

int main(int argc, char ** argv) {
    ggml_backend_reg_t module = argc == 2 ? ggml_backend_load(argv[1]) : nullptr;
    if (!module || ggml_backend_reg_dev_count(module) == 0) {
        std::fprintf(stderr, "module-trial: %s\n", !module ? "the module was not loaded" : "it has no device");
        return 2;
    }
    for (size_t i = 0; i < ggml_backend_reg_dev_count(module); ++i) {
        ggml_backend_dev_t device = ggml_backend_reg_dev_get(module, i);
        std::printf("device\t%s\t%s\n", ggml_backend_dev_name(device), ggml_backend_dev_description(device));
    }
    ggml_backend_t device = ggml_backend_dev_init(ggml_backend_reg_dev_get(module, 0), nullptr);
    ggml_backend_t cpu    = ggml_backend_cpu_init();
    bool           good   = true;
    for (ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q4_K }) {
        for (int64_t columns : { 1, 67 }) {
            good = agree(device, cpu, { type, 512, 131, columns }) && good;
        }
    }
    ggml_backend_free(cpu);
    ggml_backend_free(device);
    return good ? 0 : 1;
}
