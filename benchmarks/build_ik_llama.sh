#!/usr/bin/env bash
# Build the libraries of ik_llama.cpp for this processor, and put them in the place of those of its Python package.
# The package's wheel is built for older processors, and from its published source pip cannot build it: what the
# package installs beside the libraries wants a file (common/cmake/build-info-gen-cpp.cmake) that is not in there.
#
#     benchmarks/build_ik_llama.sh .venv-peers/bin/python 0.1.5
set -euo pipefail
python=$1 version=$2
place=$("$python" -c 'import importlib.util; print(importlib.util.find_spec("ik_llama_cpp").submodule_search_locations[0])')
built=$place/lib/built-$version
if [[ -e $built ]]; then exit; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$work" \
  "ik-llama-cpp-python==$version"
tar -xzf "$work"/*.tar.gz -C "$work"
cmake -S "$work"/*/vendor/ik_llama.cpp -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
  -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
  -DCMAKE_INSTALL_RPATH='$ORIGIN' -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON >"$work/log"
cmake --build "$work/build" --target llama --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" >>"$work/log"
for library in libggml.so libllama.so; do
  cp "$(find "$work/build" -name "$library" | head -n 1)" "$place/lib/.$library"
  mv "$place/lib/.$library" "$place/lib/$library"
done
touch "$built"
