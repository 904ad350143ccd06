# In place of CMake's own, which would try to link Fortran symbols: the forge's OpenBLAS, and nothing else.
# It calls OpenMP, whose library therefore stands behind it.
set(BLAS_LIBRARIES /forge/openblas/lib/libopenblas.a -lgomp -lpthread)
set(BLAS_INCLUDE_DIRS /forge/openblas/include)
set(BLAS_LINKER_FLAGS "")
set(BLAS_FOUND TRUE)
