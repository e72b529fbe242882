# Never run (docs/packages.md).
# docker build -t vmamba-cli .                       the CPU
# docker build -t vmamba-cli:cuda --target cuda .    the CPU and NVIDIA GPUs: docker run --gpus all …
# docker run --rm -v "$PWD:/data" vmamba-cli classify photo.jpg
FROM debian:12 AS build
COPY scripts/common.sh /tmp/
RUN bash -euc 'source /tmp/common.sh; packages+=(git ca-certificates dpkg-dev file); install_missing'
WORKDIR /src

FROM build AS build_cuda
ARG CUDA=12-9
ADD https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb /tmp/
RUN dpkg -i /tmp/cuda-keyring_1.1-1_all.deb && apt-get update && apt-get install -y --no-install-recommends \
  cuda-nvcc-$CUDA cuda-cudart-dev-$CUDA libcublas-dev-$CUDA
COPY . .
RUN PATH=$PATH:/usr/local/cuda/bin cmake --preset cuda -DVMAMBA_TESTS=OFF && cmake --build --preset cuda && \
  cd build/cuda && cpack -G DEB && mv vmamba-cli_*.deb /vmamba-cli.deb

FROM build AS build_cpu
COPY . .
RUN cmake --preset cpu -DVMAMBA_TESTS=OFF && cmake --build --preset cpu && \
  cd build/cpu && cpack -G DEB && mv vmamba-cli_*.deb /vmamba-cli.deb

FROM debian:12-slim AS cuda
ARG CUDA=12-9
COPY --from=build_cuda /vmamba-cli.deb /tmp/cuda-keyring_1.1-1_all.deb /tmp/
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates /tmp/cuda-keyring_1.1-1_all.deb && \
  apt-get update && apt-get install -y --no-install-recommends /tmp/vmamba-cli.deb libcublas-$CUDA && \
  rm -rf /var/lib/apt/lists/* /tmp/*.deb
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
ENTRYPOINT ["vmamba-cli"]

FROM debian:12-slim AS cpu
COPY --from=build_cpu /vmamba-cli.deb /tmp/
RUN apt-get update && apt-get install -y --no-install-recommends /tmp/vmamba-cli.deb && \
  rm -rf /var/lib/apt/lists/* /tmp/*.deb
WORKDIR /data
ENTRYPOINT ["vmamba-cli"]
