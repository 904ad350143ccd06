// Counts words on its input with what a C++ program usually needs: containers, exceptions, streams.
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>

int main() {
    std::map<std::string, int> counts;
    for (std::string word; std::cin >> word;) ++counts[word];
    for (const auto &[word, count] : counts) std::cout << word << ' ' << count << '\n';
    try {
        if (counts.empty()) throw std::runtime_error("no words");
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
