from mmojo_forge.recipe import Component, Notice, Pypi, Spec, recipe, unpack

MANYLINUX_2014 = "manylinux2014_x86_64.manylinux_2_17_x86_64"
MANYLINUX_2010 = "manylinux2010_x86_64.manylinux_2_12_x86_64"

# Versions of one toolkit, 13.0: they name each other in their own requirements.
CUDA = {
    "nvidia-cuda-nvcc": ("13.0.88", MANYLINUX_2014),
    "nvidia-nvvm": ("13.0.88", MANYLINUX_2010),
    "nvidia-cuda-crt": ("13.0.88", MANYLINUX_2014),
    "nvidia-cuda-runtime": ("13.0.96", MANYLINUX_2014),
    "nvidia-cuda-cccl": ("13.0.85", MANYLINUX_2014),
}
CUBLAS_VERSION = "13.1.0.3"

# Its attachment A lists what may be passed on: libcudart_static.a, libcublas.so, libcublasLt.so, libdevice.10.bc and
# cuda_fp16.hpp, of all that builds here use. Not the compilers, and not the stub of the driver, which the wheels do
# not have in the first place.
EULA = "LicenseRef-NVIDIA-CUDA-EULA"


def licence_of(project):
    return f"{project.replace('-', '_')}-{CUDA[project][0]}.dist-info/licenses/License.txt"


RUNTIME = licence_of("nvidia-cuda-runtime")
RUNTIME_VERSION = CUDA["nvidia-cuda-runtime"][0]

# What nvcc and the linker put into programs.
LINKED = (
    Component("cudart", RUNTIME_VERSION, EULA, of="nvidia-cuda-runtime", notices=(RUNTIME,), redistributable=True),
    Component(
        "cuda-fp16",
        RUNTIME_VERSION,
        EULA,
        of="nvidia-cuda-runtime",
        notices=(RUNTIME,),
        redistributable=True,
    ),
    Component(
        "libdevice",
        CUDA["nvidia-nvvm"][0],
        EULA,
        of="nvidia-nvvm",
        notices=(licence_of("nvidia-nvvm"),),
        redistributable=True,
    ),
    Component(
        "cub",
        CUDA["nvidia-cuda-cccl"][0],
        "BSD-3-Clause",
        of="nvidia-cuda-cccl",
        notices=(Notice("nvidia/cu13/include/cccl/cub/cub.cuh", "Copyright (c) 2011, Duane Merrill", "DAMAGE."),),
        redistributable=True,
    ),
    Component(
        "libcudacxx",
        CUDA["nvidia-cuda-cccl"][0],
        "Apache-2.0 WITH LLVM-exception",
        of="nvidia-cuda-cccl",
        notices=(licence_of("nvidia-cuda-cccl"),),
        redistributable=True,
    ),
)


@recipe("nvcc")
def nvcc() -> Spec:
    """NVIDIA's CUDA 13.0 compiler and runtime, below nvidia/cu13; its host compiler is `gcc`, by -ccbin."""
    wheels = [
        Pypi(project, version, f"{project.replace('-', '_')}-{version}-py3-none-{platform}.whl")
        for project, (version, platform) in CUDA.items()
    ]
    return unpack("nvcc-13.0", *wheels, include=("nvidia", "*.dist-info/licenses")).made_of(
        *(Component(project, licence=EULA, notices=(licence_of(project),), redistributable=False) for project in CUDA),
        *LINKED,
    )


@recipe("nvcc.cublas")
def cublas() -> Spec:
    """NVIDIA's cuBLAS 13.1, below nvidia/cu13: headers, and the shared libraries that CUDA programs load."""
    return unpack(
        f"cublas-{CUBLAS_VERSION}",
        Pypi("nvidia-cublas", CUBLAS_VERSION, f"nvidia_cublas-{CUBLAS_VERSION}-py3-none-manylinux_2_27_x86_64.whl"),
        include=("nvidia/cu13/include", "nvidia/cu13/lib", "*.dist-info/licenses"),
        exclude=("**/libnvblas*",),
    ).made_of(
        Component(
            "nvidia-cublas",
            licence=EULA,
            notices=(f"nvidia_cublas-{CUBLAS_VERSION}.dist-info/licenses/License.txt",),
            redistributable=True,
        )
    )
