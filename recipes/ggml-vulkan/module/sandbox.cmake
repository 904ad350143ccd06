# The compiler for what is run while the module is built (vulkan-shaders-gen).
set(CMAKE_C_COMPILER /build/bin/cc)
set(CMAKE_CXX_COMPILER /build/bin/c++)
set(CMAKE_AR /build/bin/ar)
set(CMAKE_RANLIB /build/bin/ranlib)
set(CMAKE_MAKE_PROGRAM /forge/ninja/ninja CACHE FILEPATH "" FORCE)
