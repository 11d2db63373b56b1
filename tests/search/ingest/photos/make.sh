#!/bin/sh
# Write the photos of this folder by exiftool, as cameras and programs write their metadata.
cd "$(dirname "$0")" || exit 1
set -e
rm -f ./*.jpg ./*.png ./*.xmp
python - <<'PYTHON'
from PIL import Image
for number, name in enumerate(("canon", "nikon", "iphone", "lightroom", "apple", "windows")):
    Image.new("RGB", (16, 12), (40 * number, 90, 200)).save(f"{name}.jpg", quality=50)
Image.new("RGB", (16, 12), (7, 90, 20)).save("digikam.png")
PYTHON
tool() { exiftool -q -overwrite_original -api Compact=NoPadding,Shorthand "$@"; }
tool -Make=Canon "-Model=Canon EOS R5" "-LensModel=RF24-105mm F4 L IS USM" -ExposureTime=1/250 \
  -FNumber=5.6 -ISO=400 -FocalLength=70 "-EXIF:Flash#=16" "-DateTimeOriginal=2023:07:14 18:30:05" \
  -OffsetTimeOriginal=+02:00 "-Orientation#=6" -GPSLatitude=48.8583 -GPSLatitudeRef=N \
  -GPSLongitude=2.2945 -GPSLongitudeRef=E -GPSAltitude=35 "-GPSAltitudeRef#=0" \
  "-EXIF:ImageDescription=                               " canon.jpg
tool "-Make=NIKON CORPORATION" "-Model=NIKON Z 6_2" "-LensModel=NIKKOR Z 24-70mm f/4 S" \
  -ExposureTime=2.5 -FNumber=11 -ISO=100 "-EXIF:Flash#=1" "-DateTimeOriginal=2021:12:24 07:00:00" \
  -GPSLatitude=33.8688 -GPSLatitudeRef=S -GPSLongitude=151.2093 -GPSLongitudeRef=E \
  -GPSAltitude=4 "-GPSAltitudeRef#=1" -GPSDateStamp=2021:12:23 -GPSTimeStamp=20:00:09 \
  -IPTC:Keywords=beach -IPTC:Keywords=sunrise "-IPTC:Caption-Abstract=Früh am Strand" \
  -IPTC:ObjectName=Coogee -IPTC:City=Sydney -IPTC:Country-PrimaryLocationName=Australia \
  -IPTC:CodedCharacterSet=utf8 nikon.jpg
tool -Make=Apple "-Model=iPhone 15 Pro" "-LensModel=iPhone 15 Pro back triple camera 6.765mm f/1.78" \
  -ExposureTime=1/1200 -FNumber=1.78 -ISO=80 "-DateTimeOriginal=2024:02:29 23:59:59" \
  -OffsetTimeOriginal=-08:00 -GPSLatitude=37.8199 -GPSLatitudeRef=N -GPSLongitude=122.4783 \
  -GPSLongitudeRef=W iphone.jpg
tool -Make=SONY -Model=ILCE-7M4 "-EXIF:ImageDescription=SONY DSC" -XMP-dc:Title=Harbour \
  "-XMP-dc:Description=Fishing boats at dawn" -XMP-dc:Subject=boat -XMP-dc:Subject=harbour \
  -XMP-xmp:Rating=4 -XMP-iptcExt:PersonInImage=Anna "-XMP-lr:HierarchicalSubject=Places|Lisbon" \
  -XMP-photoshop:City=Lisbon -XMP-photoshop:Country=Portugal -XMP-exif:GPSLatitude=38.7223 \
  -XMP-exif:GPSLongitude=-9.1393 "-XMP-aux:Lens=FE 35mm F1.8" \
  -XMP-exif:DateTimeOriginal=2022-05-01T06:10:00+01:00 lightroom.jpg
tool -XMP-digiKam:TagsList=People/Ben -XMP-digiKam:TagsList=Nature/Birds -XMP-xmp:Rating=5 \
  -XMP-MP:RegionPersonDisplayName=Ben "-XMP-MP:RegionRectangle=0.1, 0.1, 0.2, 0.2" \
  "-XMP-dc:Description-de=Ein Vogel" "-XMP-dc:Description=A bird" digikam.png
tool -XMP-mwg-rs:RegionAppliedToDimensionsW=16 -XMP-mwg-rs:RegionAppliedToDimensionsH=12 \
  -XMP-mwg-rs:RegionAppliedToDimensionsUnit=pixel "-XMP-mwg-rs:RegionName=Zoë Müller" \
  -XMP-mwg-rs:RegionType=Face -XMP-mwg-rs:RegionAreaX=0.5 -XMP-mwg-rs:RegionAreaY=0.5 \
  -XMP-mwg-rs:RegionAreaW=0.1 -XMP-mwg-rs:RegionAreaH=0.1 apple.jpg
tool -EXIF:Rating=3 "-EXIF:ImageDescription=Grandma's garden" windows.jpg
exiftool -q -o sidecar.xmp -XMP-dc:Subject=raw -XMP-xmp:Rating=2 "-XMP-dc:Title=From the sidecar" \
  "-XMP-dc:Description=A sidecar's caption" -XMP-exif:ExposureTime=1/60 -XMP-exif:FNumber=2.8 \
  -XMP-exif:ISO=200
