#include <cstdio>
#include <stdexcept>

struct base {
    virtual ~base() = default;
};
struct derived : base {};

int main() {
    derived one;
    base *  any = &one;
    try {
        if (dynamic_cast<derived *>(any)) {
            throw std::runtime_error("thrown");
        }
    } catch (const std::exception &) {
        puts("caught in C++");
    }
    return 0;
}
