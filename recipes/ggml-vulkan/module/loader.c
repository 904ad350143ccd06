// To link with in place of the machine's libvulkan.so.1: the functions that ggml-vulkan takes from it by name. All
// others it asks these for.
void vkGetInstanceProcAddr(void) {}
void vkGetDeviceProcAddr(void) {}
void vkGetPhysicalDeviceFeatures2(void) {}
void vkCmdCopyBuffer(void) {}
