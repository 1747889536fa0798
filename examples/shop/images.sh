#!/bin/sh
# Imports the shop's images: examples/shop/images.sh DIR, where DIR holds the
# archives that scripts/images makes. GANTRY is the program to use.
set -eu
dir=$1
gantry=${GANTRY:-gantry}

"$gantry" image import "$dir/shop-front.tar" shop-front \
    --change 'CMD ["nginx"]' --change 'EXPOSE 80' --change 'STOPSIGNAL SIGQUIT'
"$gantry" image import "$dir/shop-web.tar" shop-web \
    --change 'ENTRYPOINT ["/shop"]' --change 'EXPOSE 8080' --change 'USER 1000:1000'
"$gantry" image import "$dir/shop-db.tar" shop-db \
    --change 'ENTRYPOINT ["/entrypoint.sh"]' --change 'USER postgres' --change 'EXPOSE 5432' \
    --change 'VOLUME /var/lib/postgresql/data' --change 'STOPSIGNAL SIGINT'
"$gantry" image import "$dir/shop-cache.tar" shop-cache \
    --change 'CMD ["redis-server"]' --change 'WORKDIR /data' --change 'EXPOSE 6379'
